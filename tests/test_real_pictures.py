"""Data set, metrics, pseudo masks and CRF on photographs at full size.

scikit-image's photographs always, real VOC2012 pictures where the fixture voc2012 finds them.
"""

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix

from clims_lib import plots
from clims_lib.cam import CAMNet, multi_scale_cam
from clims_lib.crf import dense_crf, refine_cam, unary_from_cam, unary_from_labels
from clims_lib.data.voc import VOCFolder, read_mask, write_mask
from clims_lib.labels import palette
from clims_lib.metrics import confusion, iou, miou
from clims_lib.seeds import cam_to_mask, normalise_cam, threshold_counts, threshold_curve

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")
KRAEHENBUEHL = {  # the settings of the paper's own code
    "gaussian_weight": 3.0,
    "gaussian_sxy": 3.0,
    "bilateral_weight": 10.0,
    "bilateral_sxy": 80.0,
    "bilateral_srgb": 13 / 255,
    "iterations": 10,
}
NARROW = KRAEHENBUEHL | {"bilateral_sxy": 50.0, "bilateral_srgb": 5 / 255}
REPAIR = {  # chosen on train pictures, used on val pictures
    "gaussian_weight": 3.0,
    "gaussian_sxy": 3.0,
    "bilateral_weight": 4.0,
    "bilateral_sxy": 40.0,
    "bilateral_srgb": 8 / 255,
    "iterations": 5,
}


def photograph(name):
    """A photograph that scikit-image ships, uint8 (3, H, W)."""
    return torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1).contiguous()


def smooth_maps(classes, size, seed):
    """Random activation maps in [0, 1], smooth as a network's: (classes, *size)."""
    coarse = torch.rand(1, classes, 9, 9, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)[0]


def peer_labels(unary, image, settings):
    """pydensecrf's labels (H, W) of energies (L, H, W) and a uint8 picture (3, H, W)."""
    densecrf = pytest.importorskip(
        "pydensecrf.densecrf", reason="pydensecrf2 is not installed, it needs a C++ compiler"
    )
    labels, height, width = unary.shape
    peer = densecrf.DenseCRF2D(width, height, labels)
    peer.setUnaryEnergy(np.ascontiguousarray(unary.reshape(labels, -1).numpy()))
    peer.addPairwiseGaussian(sxy=settings["gaussian_sxy"], compat=settings["gaussian_weight"])
    peer.addPairwiseBilateral(
        sxy=settings["bilateral_sxy"],
        srgb=settings["bilateral_srgb"] * 255,
        rgbim=np.ascontiguousarray(image.permute(1, 2, 0).numpy()),
        compat=settings["bilateral_weight"],
    )
    return np.array(peer.inference(settings["iterations"])).argmax(0).reshape(height, width)


def agreement(unary, image, settings):
    """Share of pixels to which our lattice and pydensecrf give the same label."""
    expected = peer_labels(unary, image, settings)
    q = dense_crf(unary[None], image[None] / 255, **settings, exact=False)
    return float((q[0].argmax(0).numpy() == expected).mean())


def spoil(mask, generator, erode=3, shift=(4, -3), noise=0.1):
    """Erode every object, shift the mask and relabel a tenth of its pixels at random.

    Returns (present, spoilt): the labels in the mask, and indices into them, int64 (H, W).
    """
    mask = torch.where(mask == 255, 0, mask)
    present = mask.unique()
    objects = (mask == present[:, None, None]).float()
    objects = -F.max_pool2d(-objects, 2 * erode + 1, 1, erode)  # a minimum: objects shrink
    index = torch.arange(len(present)).view(-1, 1, 1)
    spoilt = (objects * index).sum(0).long().roll(shift, (0, 1))  # background is index 0
    hit = torch.rand(spoilt.shape, generator=generator) < noise
    spoilt[hit] = torch.randint(0, len(present), (int(hit.sum()),), generator=generator)
    return present, spoilt


# Photographs of scikit-image: always ------------------------------------------------------------


@pytest.mark.parametrize("settings", [KRAEHENBUEHL, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_crf_labels_photographs_as_pydensecrf(name, settings):
    image = photograph(name)
    unary = unary_from_cam(smooth_maps(3, image.shape[1:], seed=1), 0.6)
    assert agreement(unary, image, settings) >= 0.99


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_crf_labels_small_photographs_as_pydensecrf(name):
    image = F.interpolate(photograph(name)[None].float(), size=(64, 64), mode="area")[0].byte()
    settings = KRAEHENBUEHL | {"bilateral_sxy": 20.0, "bilateral_srgb": 0.1, "gaussian_sxy": 1.5}
    unary = unary_from_cam(smooth_maps(6, (64, 64), seed=2), 0.6)
    assert agreement(unary, image, settings) >= 0.99


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_pseudo_masks_of_photographs(name):
    image = photograph(name)
    cam = smooth_maps(6, image.shape[1:], seed=3) - 0.2
    label = torch.tensor([1.0, 0, 0, 1, 0, 1])
    maps = normalise_cam(cam, label)
    assert maps.amin() == 0 and torch.equal(maps.amax((1, 2)), label)
    mask, refined = cam_to_mask(maps, 0.5), refine_cam(image / 255, maps, 0.5, **REPAIR)
    for result in (mask, refined):
        assert result.shape == image.shape[1:] and result.dtype == torch.uint8
        assert set(result.unique().tolist()) <= {0, 1, 4, 6}
    # Labels change where colours do: the CRF's borders lie on stronger edges than the maps'.
    assert edge_strength(image, refined) > edge_strength(image, mask)


def edge_strength(image, mask):
    """Mean colour difference between horizontal neighbours of different labels."""
    border = mask[:, 1:] != mask[:, :-1]
    return (image[:, :, 1:].float() - image[:, :, :-1].float()).abs().mean(0)[border].mean()


# Real VOC2012 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_voc_samples(voc2012, split):
    data = VOCFolder(voc2012, split)
    assert len(data) >= 200 and data.classes[14] == "person"
    for i in range(0, len(data), len(data) // 12):
        name, image, label, mask = data[i]
        assert image.dtype == mask.dtype == torch.uint8 and image.shape[1:] == mask.shape
        inside = set(mask.unique().tolist()) - {0, 255}
        assert inside == {k + 1 for k in range(20) if label[k]} and inside, name
        assert torch.equal(data.label(i), label)


def test_voc_masks_survive_the_disk_with_vocs_own_palette(voc2012, tmp_path):
    from PIL import Image

    path = sorted((voc2012 / "SegmentationClass").glob("*.png"))[0]
    write_mask(tmp_path / path.name, read_mask(path))
    assert (read_mask(tmp_path / path.name) == read_mask(path)).all()
    with Image.open(path) as original:
        assert original.getpalette() == palette().ravel().tolist()


def test_voc_metrics_are_scikit_learns(voc2012):
    data, g = VOCFolder(voc2012, "val"), torch.Generator().manual_seed(0)
    total, truths, predictions = 0, [], []
    for i in range(8):
        truth = data[i].mask
        present, spoilt = spoil(truth, g)
        prediction = present[spoilt]
        total = total + confusion(truth, prediction, 21)
        truths.append(truth[truth != 255])
        predictions.append(prediction[truth != 255])
    peer = confusion_matrix(torch.cat(truths), torch.cat(predictions), labels=range(21))
    assert (total.numpy() == peer).all()
    assert bool((iou(total)[torch.cat(truths).unique().long()] > 0).all()) and miou(total) < 1


def test_voc_pseudo_masks_and_threshold(voc2012):
    data = VOCFolder(voc2012, "train")
    samples = [data[i] for i in range(0, 60, 10)]
    labels, truths = [s.label for s in samples], [s.mask for s in samples]
    cams = []
    for i, (_, _, _, mask) in enumerate(samples):
        objects = (mask == torch.arange(1, 21).view(-1, 1, 1)).float()
        cams.append(0.5 * objects + 0.5 * smooth_maps(20, mask.shape, seed=i))
    thresholds, counts = [0.05 * t for t in range(1, 20)], 0
    maps = [normalise_cam(c, y) for c, y in zip(cams, labels, strict=True)]
    for cam, truth in zip(maps, truths, strict=True):
        counts = counts + threshold_counts(cam, truth, thresholds, range(1, 21), 21)
    curve = threshold_curve(counts)
    best = max(range(len(curve)), key=curve.__getitem__)
    masks = [cam_to_mask(m, thresholds[best]) for m in maps]
    total = sum(confusion(t, m, 21) for t, m in zip(truths, masks, strict=True))
    assert curve[best] == miou(total) > 0.5


@pytest.mark.parametrize("settings", [KRAEHENBUEHL, NARROW, REPAIR], ids=["wide", "narrow", "own"])
def test_voc_crf_labels_as_pydensecrf(voc2012, settings):
    data, g = VOCFolder(voc2012, "val"), torch.Generator().manual_seed(0)
    for i in (0, 40, 80):
        sample = data[i]
        present, spoilt = spoil(sample.mask, g)
        unary = unary_from_labels(spoilt, 0.7, len(present))
        assert agreement(unary, sample.image, settings) >= 0.99, sample.name


@pytest.mark.parametrize("count", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_voc_crf_repairs_spoilt_masks(voc2012, count):
    data, g = VOCFolder(voc2012, "val"), torch.Generator().manual_seed(0)
    before = after = 0
    for i in range(0, 5 * count, 5):
        sample = data[i]
        present, spoilt = spoil(sample.mask, g)
        unary = unary_from_labels(spoilt, 0.8, len(present))
        repaired = dense_crf(unary[None], sample.image[None] / 255, **REPAIR)[0].argmax(0)
        before = before + confusion(sample.mask, present[spoilt], 21)
        after = after + confusion(sample.mask, present[repaired], 21)
    print(f"mIoU of {count} pictures: {miou(before):.3f} -> {miou(after):.3f}")
    assert miou(after) > miou(before) + 0.1


def test_voc_maps_and_pictures_at_full_size(voc2012):
    """CAM inference keeps every picture's own size, mirrored pictures give mirrored maps."""
    torch.manual_seed(0)
    model = CAMNet(20, (1, 1, 1, 1), thin=8, stride=16).eval()
    data = VOCFolder(voc2012, "val")
    for i in (0, 50, 100):
        _, image, label, mask = data[i]
        x = image[None] / 255
        with torch.no_grad():
            maps, mirrored = (
                multi_scale_cam(model, v, scales=[0.5, 1.0], flip=True, activation="sigmoid")
                for v in (x, x.flip(-1))
            )
        assert maps.shape == (1, 20, *image.shape[1:])
        torch.testing.assert_close(mirrored.flip(-1), maps, rtol=1e-4, atol=1e-4)
        seed = cam_to_mask(normalise_cam(maps[0], label), 0.3)
        assert set(seed.unique().tolist()) <= {0} | {k + 1 for k in range(20) if label[k]}
        shown = plots.overlay(image, mask.where(mask != 255, 0))
        assert shown.shape == (*image.shape[1:], 3)
        assert (shown[mask == 0] == plots.picture(image)[mask == 0]).all()
