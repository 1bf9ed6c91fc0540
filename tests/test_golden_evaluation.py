"""Confusion, IoU, mIoU and threshold ties as the three released evaluations count them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clims_lib.metrics import confusion, iou, miou
from clims_lib.seeds import (
    THRESHOLDS,
    best_threshold,
    cam_to_mask,
    threshold_counts,
    threshold_curve,
)

CASES = json.loads((Path(__file__).parent / "golden/evaluation.json").read_text())["cases"]
MAPS, CLIMS, NOWHERE, *CAMS, PUZZLE, CCT = CASES
TRUTH, PREDICTION = (torch.tensor(MAPS["inputs"][k]) for k in ("ground_truth", "prediction"))


def equal(found, expected):
    torch.testing.assert_close(
        torch.as_tensor(found, dtype=torch.float64),
        torch.tensor([float(x) for x in np.ravel(expected)], dtype=torch.float64),
        rtol=1e-6,
        atol=1e-9,
        equal_nan=True,
    )


@pytest.mark.parametrize("case", [MAPS, CLIMS])
def test_chainercv_with_255_predicted_as_background(case):
    told = case["outputs"]
    counts = confusion(TRUTH, PREDICTION.where(PREDICTION != 255, 0), 5)
    assert counts.tolist() == told["confusion_gt_rows_pred_columns"]
    equal(iou(counts), told["iou"])
    equal([miou(counts)], [told["miou_nanmean"]])
    wide = confusion(TRUTH, PREDICTION.where(PREDICTION != 255, 0), 21)
    equal([miou(wide)], [told["miou_nanmean"]])  # classes that occur nowhere are left out


def test_a_class_that_occurs_nowhere():
    given, told = NOWHERE["inputs"], NOWHERE["outputs"]
    truth, prediction = torch.tensor(given["ground_truth"]), torch.tensor(given["prediction"])
    counts = confusion(truth, prediction, 4)
    assert counts.tolist() == told["confusion_gt_rows_pred_columns"]
    equal(iou(counts), told["iou"])
    equal([miou(counts)], [told["miou_nanmean"]])
    assert miou(counts, absent="zero") == pytest.approx((2 / 3 + 2 / 3) / 4)


@pytest.mark.parametrize("case", CAMS, ids=lambda case: str(case["inputs"]["threshold"]))
def test_thresholds_and_their_ties(case):
    given, told, threshold = case["inputs"], case["outputs"], case["inputs"]["threshold"]
    cams, truth = torch.tensor(given["high_res_cams_float32"]), torch.tensor(given["ground_truth"])
    labels = [key + 1 for key in given["zero_based_class_keys"]]
    mask = torch.tensor([0, *labels])[cam_to_mask(cams, threshold).long()]
    assert mask.tolist() == told["prediction"]
    counts = confusion(truth, mask, 6)
    assert counts.tolist() == told["confusion_gt_rows_pred_columns"]
    equal(iou(counts), told["iou"])
    equal([miou(counts)], [told["miou_nanmean"]])

    # all thresholds in one pass: the same ties
    grid = THRESHOLDS["camera_ready"]
    all_counts = threshold_counts(cams, truth, grid, labels, 6)
    curve = threshold_curve(all_counts)
    equal([curve[grid.index(threshold)]], [told["miou_nanmean"]])
    others = [
        miou(confusion(truth, torch.tensor([0, *labels])[cam_to_mask(cams, t).long()], 6))
        for t in grid
    ]
    assert curve == others
    assert threshold_curve(all_counts, absent="zero")[0] < curve[0]


def test_puzzle_cam_and_camera_ready_count_absent_classes_as_zero():
    """What they predict as 255 belongs to no class: a label of its own, left out of the mean."""
    told = PUZZLE["outputs"]
    counts = confusion(TRUTH, PREDICTION.where(PREDICTION != 255, 21), 22)
    assert counts.sum(0)[:21].tolist() == told["predicted_counts"]
    assert counts.sum(1)[:21].tolist() == told["true_counts"]
    assert counts.diagonal()[:21].tolist() == told["hit_counts"]
    scores = iou(counts)[:21].nan_to_num(0.0)
    equal(100 * scores, list(told["iou_percent"].values()))
    equal([100 * scores.mean()], [told["miou_percent_over_21"]])
    equal([100 * scores[1:].mean()], [told["miou_foreground_percent_over_20"]])
    # where nothing is predicted as 255, that is our option
    known = PREDICTION != 255
    counts = confusion(TRUTH[known], PREDICTION[known], 21)
    assert miou(counts, absent="zero") == pytest.approx(iou(counts).nan_to_num(0.0).sum() / 21)


def test_cct():
    given, told = CCT["inputs"], CCT["outputs"]
    truth, guess = torch.tensor(given["target"]), torch.tensor(given["scores"]).argmax(1)
    counts = confusion(truth, guess, given["num_classes"])
    hits = counts.diagonal()
    assert int(hits.sum()) == told["correct"] and int(counts.sum()) == told["labelled"]
    assert hits.tolist() == told["intersection"]
    assert (counts.sum(0) + counts.sum(1) - hits).tolist() == told["union"]
    equal(iou(counts), told["iou"])
    equal([miou(counts, absent="zero")], [told["miou_plain_mean"]])
    equal([hits.sum() / counts.sum()], [told["pixel_accuracy"]])


def test_the_best_of_a_grid_is_the_first_of_equal_ones():
    grid = THRESHOLDS["camera_ready"]
    assert len(grid) == 15 and grid[0] == 0.05 and grid[2] == 0.15 and grid[-1] == 0.75
    assert best_threshold([0.2, 0.5, 0.5, 0.1], grid[:4]) == 0.1
    assert THRESHOLDS["improved"] == (0.15,)


def test_other_rules_are_refused():
    with pytest.raises(ValueError, match="left_out"):
        miou(torch.eye(2), absent="nan")
