"""The claims, against differences worked by hand."""

import pytest

from clims_lib.results.claims import claims, claims_table


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
    assert gain["mean"] == pytest.approx(14) and gain["seeds"] == 2 and gain["met"]
    assert gain["spread"] == pytest.approx(2 * 2**0.5)  # of 12 and 16
    cut = found["leak railroad->train cut against CAM, relative"]
    assert cut["mean"] == pytest.approx((75 + 25) / 2) and not cut["met"]
    assert not found["CLIMS over CAM, person IoU"]["met"]
    assert found["CLIMS over CAM, worst class"]["mean"] == pytest.approx(0)


def test_claims_without_their_rows_are_left_out():
    assert claims([]) == [] and claims([row("clims", 0.5)]) == []
    gap = named(claims([row("cam", 0.4), row("clims_crf", 0.7), row("full_masks", 0.8)]))
    (name,) = gap
    assert gap[name]["mean"] == pytest.approx(75)


def test_zero_shot_claims():
    def entry(model, **accuracy):
        return {"model": model, "split": "test", "seed": 0, "accuracy": accuracy}

    entries = [
        entry("clip", person=0.2, cow=0.9, car=0.8),
        entry("clip_finetuned", person=0.5, cow=0.85, car=0.9),
    ]
    person, others = claims([], entries)
    assert person["mean"] == pytest.approx(10) and person["met"]
    assert others["mean"] == pytest.approx(-5) and not others["met"]


def test_the_table_says_what_is_not_met():
    lines = claims_table(claims([row("cct", 0.60), row("cct_clims", 0.63)])).splitlines()
    assert lines[2].split() == [
        "CCT",
        "+",
        "CLIMS",
        "over",
        "CCT,",
        "mIoU",
        ">=",
        "3.7",
        "+3.0",
        "NOT",
        "met",
    ]
