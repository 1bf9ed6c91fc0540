"""Measurements are gathered once each, in fractions, and averaged over seeds."""

import statistics

import numpy as np
import pytest
import torch

from clims_lib.artifacts import read_json, rounded, write_json
from clims_lib.config import load_profile
from clims_lib.results import tables
from clims_lib.results.tables import (
    accuracies_beyond_spread,
    beyond_spread,
    gather_results,
    mean_spread,
    read_committed,
    record,
    results_table,
    summary,
)

WHERE = {"profile": "tiny", "seed": 0, "seconds": 1.0, "device": "cpu"}


def row(method="cam", miou=0.4, seed=0, **more):
    return {
        "method": method,
        "split": "test",
        "seed": seed,
        "threshold": 0.3,
        "crf": False,
        "miou": miou,
        "iou": {"person": miou / 2},
        "leak": {"railroad->train": 0.5},
    } | more


def test_record_and_gather(tmp_path):
    record(tmp_path / "03_cam.json", **WHERE, rows=[row(), row("clims", 0.6)])
    record(
        tmp_path / "05_cases.json",
        **WHERE,
        rows=[row()],  # the same measurement again
        zero_shot=[{"model": "clip", "split": "test", "seed": 0, "accuracy": {"person": 0.1}}],
        oracle=[{"class": "train", "mask": "true", "loss": 11.4}],
    )
    results = gather_results(tmp_path)
    assert results["rows"] == [row(), row("clims", 0.6)]
    assert results["oracle"] == [{"seed": 0, "class": "train", "mask": "true", "loss": 11.4}]
    assert len(results["zero_shot"]) == 1
    assert results["environment"]["torch"] == torch.__version__
    assert results["environment"]["device"] == "cpu" and "commit" in results


def test_disagreement_is_named(tmp_path):
    record(tmp_path / "03_cam.json", **WHERE, rows=[row()])
    record(tmp_path / "05_cases.json", **WHERE, rows=[row(miou=0.5)])
    with pytest.raises(ValueError, match="03_cam.json and 05_cases.json disagree"):
        gather_results(tmp_path)


def test_nothing_measured(tmp_path):
    with pytest.raises(ValueError, match="nothing measured yet"):
        gather_results(tmp_path)


@pytest.mark.parametrize(
    "bad, message",
    [
        (row(miou=46.4), "cam miou = 46.4, but scores are fractions"),
        (row(iou={"person": 44.0}), "cam person = 44.0"),
        ({"method": "cam", "seed": 0, "miou": 0.4}, "lacks split"),
    ],
)
def test_bad_rows(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message):
        record(tmp_path / "03.json", **WHERE, rows=[bad])
    assert not (tmp_path / "03.json").exists()


def test_rounded_makes_plain_values(tmp_path):
    values = {"a": np.float32(1 / 3), "b": torch.tensor(2 / 3), "c": [float("nan"), np.int64(3)]}
    assert rounded(values) == {"a": 0.3333, "b": 0.6667, "c": [None, 3]}
    record(tmp_path / "x.json", **WHERE, rows=[row(iou={"cow": np.float64("nan")})])
    assert read_json(tmp_path / "x.json")["rows"][0]["iou"] == {"cow": None}


def test_mean_and_spread():
    assert mean_spread([0.5]) == (0.5, 0.0, 1)
    values = [0.56, 0.57, 0.61]
    mean, spread, seeds = mean_spread(values)
    assert (mean, seeds) == (pytest.approx(0.58), 3)
    assert spread == pytest.approx((((0.02) ** 2 + 0.01**2 + 0.03**2) / 2) ** 0.5)
    assert spread == pytest.approx(statistics.stdev(values))


def test_summary_skips_other_splits_and_absent_classes():
    rows = [
        row(seed=0),
        row(seed=1, miou=0.5),
        row(split="val", miou=0.9),
        row(seed=2, miou=0.6, iou={"person": None}, leak=None),
    ]
    cam = summary(rows)["cam"]
    assert cam["miou"] == (pytest.approx(0.5), pytest.approx(0.1), 3)
    assert cam["person"][0] == pytest.approx(0.225) and cam["person"][2] == 2
    assert cam["railroad->train"][2] == 2


def test_table():
    committed = [row(seed=0, miou=0.39), row(seed=1, miou=0.41), row("clims", 0.6)]
    lines = results_table([row(miou=0.4)], committed).splitlines()
    assert lines[0].split() == [
        "method",
        "miou",
        "committed",
        "person",
        "committed",
        "railroad->train",
        "committed",
    ]
    assert lines[2].split()[:5] == ["cam", "40.0", "40.0", "±", "1.4"]
    assert lines[3].split()[:3] == ["clims", "-", "60.0"]
    assert len({len(line) for line in lines}) == 1  # columns line up


def test_beyond_spread():
    committed = [row(seed=seed, miou=miou) for seed, miou in enumerate((0.54, 0.55, 0.56))]
    assert beyond_spread([row(miou=0.585)], committed) == []
    assert "cam: mIoU is -5.0 points" in beyond_spread([row(miou=0.5)], committed)[0]
    assert beyond_spread([row("new")], committed) == []


def test_committed_results_are_read_by_profile(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    profile = load_profile("tiny")
    assert read_committed(profile) == []
    table = {"rows": [row()], "zero_shot": [], "oracle": []}
    write_json(tmp_path / "data/results/tiny.json", table)
    assert read_committed(profile) == [row()] and read_committed(profile, "oracle") == []
    with pytest.raises(ValueError, match="did you mean rows"):
        read_committed(profile, "row")


def test_accuracies_far_from_the_committed_mean_are_named():
    def entry(seed, person):
        return {
            "model": "clip",
            "split": "test",
            "seed": seed,
            "accuracy": {"person": person, "car": 0.9, "cow": None},
        }

    committed = [entry(0, 0.50), entry(1, 0.52)]
    assert accuracies_beyond_spread([entry(0, 0.60)], committed) == []  # within the floor
    (sentence,) = accuracies_beyond_spread([entry(0, 0.7)], committed)
    assert "person is 70.0" in sentence
    assert accuracies_beyond_spread([entry(0, 0.7)], []) == []
