"""Pseudo masks against values worked by hand and against the plain loop over thresholds."""

import pytest
import torch

from clims_lib.metrics import confusion, miou
from clims_lib.seeds import cam_to_mask, normalise_cam, threshold_counts, threshold_curve

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
    maps = [normalise_cam(c, y, how) for c, y in zip(cams, labels, strict=True)]

    def plain(threshold):
        masks = [cam_to_mask(m, threshold) for m in maps]
        return miou(sum(confusion(t, m, 4) for t, m in zip(truths, masks, strict=True)))

    expected = [plain(t) for t in thresholds]
    counts = sum(
        threshold_counts(m, t, thresholds, [1, 2, 3], 4) for m, t in zip(maps, truths, strict=True)
    )
    assert threshold_curve(counts) == expected
    assert counts.sum() == sum(int((t != 255).sum()) for t in truths)


def test_maps_of_some_classes_are_counted_under_their_labels():
    g = torch.Generator().manual_seed(2)
    cam = torch.rand(2, 5, 6, 7, generator=g)
    cam[:, [0, 2, 4]] = 0
    truth = torch.randint(0, 6, (2, 6, 7), generator=g)
    whole = threshold_counts(cam, truth, [0.3, 0.6], [1, 2, 3, 4, 5], 6)
    some = threshold_counts(cam[:, [1, 3]], truth, [0.3, 0.6], [2, 4], 6)
    assert torch.equal(whole, some)


def test_the_best_threshold_is_the_one_that_was_put_in():
    truth = torch.zeros(10, 10, dtype=torch.uint8)
    truth[:, 5:] = 1
    cam = torch.where(truth == 1, 0.8, 0.45)[None]
    curve = threshold_curve(threshold_counts(cam, truth, [0.2, 0.4, 0.6, 0.9], [1], 2))
    assert max(curve) == curve[2] == 1.0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"thresholds": [0.5, 0.2]}, "rising"),
        ({"thresholds": []}, "rising"),
        ({"labels": [1]}, "and 1 labels"),
        ({"truth": torch.zeros(4, 5, dtype=torch.uint8)}, "resize the cam to the picture"),
        ({"truth": torch.full((4, 4), 7, dtype=torch.uint8)}, "labels over 2"),
    ],
)
def test_bad_input(change, message):
    good = {
        "cam": torch.rand(2, 4, 4),
        "truth": torch.zeros(4, 4, dtype=torch.uint8),
        "thresholds": [0.2, 0.5],
        "labels": [1, 2],
        "num_labels": 3,
    }
    with pytest.raises(ValueError, match=message):
        threshold_counts(**(good | change))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": torch.ones(3)}, "needs label"),
        ({"how": "softmax"}, "how must be"),
        ({"cam": torch.full((2, 4, 4), torch.nan)}, "nan"),
    ],
)
def test_maps_that_cannot_be_normalised(change, message):
    good = {"cam": torch.rand(2, 4, 4), "label": torch.ones(2), "how": "max"}
    with pytest.raises(ValueError, match=message):
        normalise_cam(**(good | change))
