"""Standard errors against a literal bootstrap, with numpy, over the very pixels."""

import numpy as np
import pytest
import torch

from clims_lib.bootstrap import LEAK, draw_pictures, scores_of_draws, standard_error
from clims_lib.metrics import IGNORE, confusion, leak_rate

LABELS = ("background", "boat", "train")


def some_masks(pictures=12, seed=0):
    """Truth with 255 in it, predictions that are mostly right, and grounds."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (pictures, 6, 6)).astype(np.uint8)
    wrong = rng.random(truth.shape) < rng.random((pictures, 1, 1))
    prediction = np.where(wrong, rng.integers(0, 3, truth.shape), truth).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = IGNORE
    return truth, prediction, rng.integers(0, 2, truth.shape).astype(np.uint8)


def counted(truth, prediction, ground):
    pairs = [leak_rate(p, g, 1, 2) for p, g in zip(prediction, ground, strict=True)]
    matrices = [confusion(t, p, 3) for t, p in zip(truth, prediction, strict=True)]
    return {"confusion": torch.stack(matrices).int(), f"{LEAK}rail->train": torch.tensor(pairs)}


def literally(truth, prediction, ground):
    """mIoU, IoU of each label and leak of pictures, by sets of pixels."""
    known, iou = truth != IGNORE, []
    for k in range(3):
        both = ((truth == k) & (prediction == k) & known).sum()
        iou.append(both / (((truth == k) | (prediction == k)) & known).sum())
    rail = ground == 1
    return np.mean(iou), iou, (rail & (prediction == 2)).sum() / rail.sum()


def test_every_draw_is_the_score_of_its_pictures():
    masks = some_masks()
    drawn = draw_pictures(12, draws=20, seed=3)
    assert drawn.shape == (20, 12) and bool((drawn.sum(1) == 12).all())
    found = scores_of_draws(counted(*masks), LABELS, drawn)
    for d, times in enumerate(drawn.long()):
        some = np.repeat(np.arange(12), times.numpy())  # the same pictures, one by one
        miou, iou, leak = literally(*(part[some] for part in masks))
        assert found.miou[d].item() == pytest.approx(miou)
        assert [found.iou[name][d].item() for name in LABELS] == pytest.approx(iou)
        assert found.leak["rail->train"][d].item() == pytest.approx(leak)


def test_standard_errors_agree_with_a_literal_bootstrap():
    """Another generator, other draws: the errors of a score and of a paired difference."""
    masks, other = some_masks(40), some_masks(40, seed=0)
    rng = np.random.default_rng(1)
    other[1][rng.random(other[1].shape) < 0.2] = 0  # the same predictions, a fifth blanked
    drawn = draw_pictures(40, draws=2000)
    first, second = (scores_of_draws(counted(*m), LABELS, drawn).miou for m in (masks, other))
    alone, apart = [], []
    for _ in range(2000):
        some = rng.integers(0, 40, 40)
        scores = [literally(*(part[some] for part in m))[0] for m in (masks, other)]
        alone.append(scores[0])
        apart.append(scores[0] - scores[1])
    assert standard_error(first) == pytest.approx(np.std(alone, ddof=1), rel=0.1)
    assert standard_error(first - second) == pytest.approx(np.std(apart, ddof=1), rel=0.1)
    assert standard_error(first - second) < 0.7 * standard_error(first)  # they share their pictures


def test_the_error_of_a_mean_is_the_textbooks():
    """Pictures of ten pixels of one label: the IoU is the share that is right, a mean over them."""
    right = torch.tensor([2, 9, 5, 7, 10, 4, 8, 8, 6, 1])
    matrix = torch.zeros(10, 2, 2)
    matrix[:, 1, 1], matrix[:, 1, 0] = right, 10 - right
    drawn = draw_pictures(10, draws=20000)
    boat = scores_of_draws({"confusion": matrix}, ("background", "boat"), drawn).iou["boat"]
    by_hand = (right / 10).double().std(correction=0) / 10**0.5
    assert standard_error(boat) == pytest.approx(by_hand.item(), rel=0.02)


def test_draws_without_a_label_are_left_out():
    scores = torch.tensor([1.0, 3.0, float("nan"), 5.0])
    assert standard_error(scores) == pytest.approx(2.0)
    assert standard_error(torch.tensor([float("nan")])) == 0.0
    with pytest.raises(ValueError, match="no picture"):
        draw_pictures(0)
