"""The claims, against differences and errors worked by hand and drawn literally."""

import datetime
import math

import numpy as np
import pytest
import torch

from clims_lib.results.claims import CLAIMS
from clims_lib.results.verdicts import (
    RULE,
    claims,
    claims_table,
    combined_error,
    picture_errors,
    verdict,
)


def row(method, miou, seed=0, person=0.5, leak=0.4, split="test"):
    return {
        "method": method,
        "split": split,
        "seed": seed,
        "miou": miou,
        "iou": {"background": 0.8, "person": person},
        "leak": {"railroad->train": leak, "water->boat": leak},
    }


def named(tested):
    return {one["claim"]: one for one in tested}


def test_claims_compare_within_a_seed():
    rows = [
        row("cam", 0.30),
        row("clims", 0.42, leak=0.1),
        row("cam", 0.40, seed=1),
        row("clims", 0.56, seed=1, leak=0.3),
        row("cam", 0.99, split="val"),
    ]
    found = named(claims(rows))
    gain = found["CLIMS over CAM, mIoU"]
    assert gain["mean"] == pytest.approx(14) and gain["seeds"] == 2
    assert gain["spread"] == pytest.approx(2 * 2**0.5)  # of 12 and 16
    assert gain["error"] == pytest.approx(2)
    assert gain["verdict"] == "undecided"  # 14 - 2 x 2 is the goal itself
    cut = found["leak railroad->train cut against CAM, relative"]
    assert cut["mean"] == pytest.approx((75 + 25) / 2) and cut["verdict"] == "undecided"
    assert found["CLIMS over CAM, person IoU"]["verdict"] == "not met"  # twice the same: 0 < 10
    assert found["CLIMS over CAM, worst class"]["mean"] == pytest.approx(0)
    assert found["CLIMS over CAM, worst class"]["verdict"] == "undecided"


@pytest.mark.parametrize(
    "mean, error, goal, said",
    [
        (14.1, 2, 10, "met"),
        (14, 2, 10, "undecided"),
        (10, 2, 10, "undecided"),
        (5.9, 2, 10, "not met"),
        (0.0, 0.5, 0, "undecided"),
        (1.2, 0.5, 0, "met"),
        (-1.2, 0.5, 0, "not met"),
        (0.1, 0, 0, "met"),
        (99, math.inf, 0, "undecided"),
    ],
)
def test_verdicts_by_hand(mean, error, goal, said):
    assert verdict(mean, error, goal) == said


def test_seeds_and_pictures_add_up_as_squares():
    assert combined_error(6.0, 4, 4.0) == pytest.approx(5.0)  # 3 and 4
    assert combined_error(0.0, 1, 1.0) == math.inf
    rows = [row(m, 0.5 + gain, seed) for seed in range(4) for m, gain in (("cct", 0.01),)]
    rows += [row("supervised", 0.5, seed) for seed in range(4)]
    name = "CCT over supervised only, mIoU"
    assert named(claims(rows))[name]["verdict"] == "met"  # all seeds agree
    of_pictures = named(claims(rows, errors={name: 0.6}))[name]
    assert of_pictures["error"] == pytest.approx(0.6) and of_pictures["verdict"] == "undecided"


def test_claims_without_their_rows_are_left_out():
    assert claims([]) == [] and claims([row("clims", 0.5)]) == []
    gap = named(claims([row("cam", 0.4), row("clims_crf", 0.7), row("full_masks", 0.8)]))
    (name,) = gap
    assert gap[name]["mean"] == pytest.approx(75)
    assert gap[name]["verdict"] == "undecided"  # one seed


def test_zero_shot_claims():
    def entry(model, seed, **accuracy):
        return {"model": model, "split": "test", "seed": seed, "accuracy": accuracy}

    entries = [
        entry(model, seed, **accuracy)
        for seed in (0, 1)
        for model, accuracy in (
            ("clip", dict(person=0.2, cow=0.9, car=0.8)),
            ("clip_finetuned", dict(person=0.5, cow=0.85, car=0.9)),
        )
    ]
    person, others = claims([], entries)
    assert person["mean"] == pytest.approx(10) and person["verdict"] == "met"
    assert others["mean"] == pytest.approx(-5) and others["verdict"] == "not met"


def test_the_table_says_the_verdict_the_day_and_the_rule():
    rows = [row("cct", 0.60, seed) for seed in (0, 1)] + [
        row("cct_clims", miou, seed) for seed, miou in enumerate((0.62, 0.64))
    ]
    lines = claims_table(claims(rows)).splitlines()
    assert lines[2].split() == (
        "CCT + CLIMS over CCT, mIoU >= 3.7 +3.0 ± 1.4 1.0 undecided 2026-11-24, after".split()
    )
    assert lines[-2:] == RULE.splitlines()
    (alone,) = claims_table(claims(rows[::2])).splitlines()[2:3]
    assert alone.split()[-4:] == ["-", "undecided", "2026-11-24,", "after"]


# ---- Other pictures -----------------------------------------------------------------------------

CLASSES = ("boat", "train")


def counts_of(rng, quality, pictures=30):
    """Confusion counts of pictures whose pixels are right with a probability of their own."""
    hard = np.random.default_rng(7).random(pictures)[:, None]  # the same pictures are hard for all
    truth = np.random.default_rng(8).integers(0, 3, (pictures, 50))
    wrong = rng.random((pictures, 50)) < hard * (1 - quality)
    said = np.where(wrong, rng.integers(0, 3, truth.shape), truth)
    counts = np.zeros((pictures, 3, 3), int)
    for i in range(pictures):
        np.add.at(counts[i], (truth[i], said[i]), 1)
    return {"confusion": torch.from_numpy(counts)}


def miou(counts):
    hits = np.diagonal(counts)
    return np.mean(hits / (counts.sum(0) + counts.sum(1) - hits))


def test_errors_over_pictures_are_a_paired_bootstraps():
    """Of the mean over seeds, all rows and seeds with the same pictures, drawn literally here."""
    rng = np.random.default_rng(0)
    seeds = {
        seed: {"cct": counts_of(rng, 0.5), "supervised": counts_of(rng, 0.4)} for seed in (0, 1, 2)
    }
    found = picture_errors(seeds, {}, CLASSES, draws=2000)
    assert list(found) == ["CCT over supervised only, mIoU"]
    means = []
    for _ in range(2000):
        some = rng.integers(0, 30, 30)
        gains = [
            miou(rows["cct"]["confusion"].numpy()[some].sum(0))
            - miou(rows["supervised"]["confusion"].numpy()[some].sum(0))
            for rows in seeds.values()
        ]
        means.append(100 * np.mean(gains))
    assert found["CCT over supervised only, mIoU"] == pytest.approx(np.std(means), rel=0.1)


def test_errors_of_zero_shot_are_those_of_shares():
    """Person is right in a of n pictures: the share's error is sqrt(p (1 - p) / n)."""
    classes = ("cow", "person")
    truth = torch.tensor([0] * 100 + [1] * 100 + [-1] * 40)
    hits = torch.zeros(240, dtype=torch.bool)
    hits[:90] = hits[100:180] = True
    none = torch.zeros_like(hits)
    errors = picture_errors(
        {}, {0: {"clip": (none, truth), "clip_finetuned": (hits, truth)}}, classes
    )
    by_hand = {"zero-shot person, over twice what it was": (0.8 * 0.2 / 100) ** 0.5}
    by_hand["zero-shot, the other class that changed worst"] = (0.9 * 0.1 / 100) ** 0.5
    assert errors == {name: pytest.approx(100 * error, rel=0.1) for name, error in by_hand.items()}


# ---- When they were written down ----------------------------------------------------------------


def test_every_claim_has_a_day_that_has_been():
    assert len({claim.text for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        day = datetime.date.fromisoformat(claim.since)
        assert datetime.date(2026, 11, 24) <= day <= datetime.date.today(), claim.text
        assert isinstance(claim.before, bool)
