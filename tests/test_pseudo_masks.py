"""Pseudo masks against values worked by hand and against the plain loop over thresholds."""

import pytest
import torch

from clims_lib.metrics import confusion, miou
from clims_lib.pseudo_masks import best_threshold, cam_to_mask, normalise_cam, threshold_curve

CAM = torch.tensor([[[2.0, -1.0], [1.0, 0.0]], [[0.2, 0.4], [3.0, 0.0]], [[-1.0, 0.0], [0.0, -2]]])


def test_normalise_by_hand():
    maps = normalise_cam(CAM, torch.tensor([1.0, 0.0, 1.0]), "max")
    assert maps.tolist() == [[[1, 0], [0.5, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]
    maps = normalise_cam(CAM, torch.tensor([1, 1, 0]), "none")
    assert torch.equal(maps[:2], torch.tensor([[[1, 0], [1, 0]], [[0.2, 0.4], [1, 0]]]))


def test_mask_is_the_argmax_over_threshold_and_classes():
    cam = torch.rand(5, 4, 9, 7, generator=torch.Generator().manual_seed(0))
    mask = cam_to_mask(cam, 0.6)
    background = torch.full_like(cam[:, :1], 0.6)
    assert mask.dtype == torch.uint8 and mask.shape == (5, 9, 7)
    assert torch.equal(mask.long(), torch.cat([background, cam], 1).argmax(1))
    assert cam_to_mask(torch.full((1, 1, 1), 0.5), 0.5).item() == 0  # a tie is background


@pytest.mark.parametrize("how", ["max", "none"])
def test_curve_equals_the_plain_loop(how):
    g = torch.Generator().manual_seed(1)
    sizes = [(8, 9), (5, 20), (13, 4)]
    cams = [torch.rand(3, *size, generator=g) * 1.4 - 0.2 for size in sizes]
    labels = [torch.tensor([1.0, 0, 1]), torch.tensor([1.0, 1, 1]), torch.tensor([0.0, 1, 0])]
    truths = [torch.randint(0, 4, size, generator=g).byte() for size in sizes]
    truths[0][0] = 255
    thresholds = [0.0, 0.1, 0.35, 0.6, 0.99, 1.0]

    def plain(threshold):
        masks = [
            cam_to_mask(normalise_cam(c, y, how), threshold)
            for c, y in zip(cams, labels, strict=True)
        ]
        return miou(sum(confusion(t, m, 4) for t, m in zip(truths, masks, strict=True)))

    expected = [plain(t) for t in thresholds]
    assert threshold_curve(cams, labels, truths, thresholds, how).tolist() == expected
    threshold, score = best_threshold(cams, labels, truths, thresholds, how)
    assert score == max(expected) and expected[thresholds.index(threshold)] == score


def test_finds_the_threshold_that_was_put_in():
    truth = torch.zeros(10, 10, dtype=torch.uint8)
    truth[:, 5:] = 1
    cam = torch.where(truth == 1, 0.8, 0.45)[None]
    found = best_threshold([cam], [torch.ones(1)], [truth], [0.2, 0.4, 0.6, 0.9], "none")
    assert found == (0.6, 1.0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"thresholds": [0.5, 0.2]}, "rising"),
        ({"thresholds": []}, "rising"),
        ({"cams": []}, "at least one picture"),
        ({"labels": [torch.ones(2)] * 2}, "need one of each"),
        ({"truths": [torch.zeros(4, 5, dtype=torch.uint8)]}, "resize the cam to the picture"),
        ({"truths": [torch.full((4, 4), 7, dtype=torch.uint8)]}, "labels over 2"),
        ({"labels": [torch.ones(3)]}, "needs label"),
        ({"how": "softmax"}, "how must be"),
        ({"cams": [torch.full((2, 4, 4), torch.nan)]}, "nan"),
    ],
)
def test_bad_input(change, message):
    good = {
        "cams": [torch.rand(2, 4, 4)],
        "labels": [torch.ones(2)],
        "truths": [torch.zeros(4, 4, dtype=torch.uint8)],
        "thresholds": [0.2, 0.5],
    }
    with pytest.raises(ValueError, match=message):
        threshold_curve(**(good | change))
