"""Leaks by hand, and segmentations of pictures that have no labels, packed for the server."""

import numpy as np
import pytest
import torch
from conftest import profile_of
from PIL import Image

from clims_lib import metrics
from clims_lib.__main__ import main
from clims_lib.config import load_profile
from clims_lib.data.splits import make_data, read_split
from clims_lib.data.voc import ground_names, list_names, read_mask, write_mask
from clims_lib.stages import masks
from clims_lib.stages.counts import around, count_pictures, row_of_counts
from clims_lib.stages.measures import measure, measure_masks
from clims_lib.stages.segmentations import predictor


def leaks(profile, split, said, truth):
    """Those of the row that such masks make."""
    labels = ["background", *profile.data.classes]
    return row_of_counts(count_pictures(profile, split, said, truth), labels)["leak"]


def test_a_ring_is_what_is_near_and_not_the_thing():
    thing = torch.zeros(1, 9, 9)
    thing[0, 4, 3:6] = 1
    ring = around(thing, 2)
    for y in range(9):
        for x in range(9):
            near = abs(y - 4) <= 2 and min(abs(x - c) for c in (3, 4, 5)) <= 2
            assert ring[0, y, x] == (near and not thing[0, y, x])


def test_leaks_around_photographed_objects_by_hand(small_voc):
    profile = profile_of(small_voc)  # a canvas of 32, so rings 4 wide
    boat, train = (list(profile.data.classes).index(name) + 1 for name in ("boat", "train"))
    truth = torch.zeros(3, 32, 32, dtype=torch.uint8)
    truth[0, 10:12, 10:12] = boat  # its ring: 10 x 10 without the 2 x 2
    truth[0, 6] = 255  # ten of its pixels count for nobody
    truth[2, 0:2, 0:2] = train
    said = torch.zeros_like(truth)
    said[0, 9, 6:16] = boat  # ten pixels of the ring
    said[1] = boat  # a picture without a boat is not asked
    found = leaks(profile, "val", said, truth)
    assert found == {"around->train": 0.0, "around->boat": pytest.approx(10 / (100 - 4 - 10))}
    with pytest.raises(ValueError, match="differ in shape"):
        leaks(profile, "val", said[:, :5], truth)


def test_leaks_of_drawn_grounds_by_counting(tmp_path):
    profile = load_profile("tiny", [f'data_root="{tmp_path}/w"', f'outputs="{tmp_path}/o"'])
    truth = read_split(profile, "val", masks=True)[2]
    classes, names = list(profile.data.classes), list(ground_names(make_data(profile)))
    said, labelled, total = torch.zeros_like(truth), 0, 0
    said[:, :, 20:] = classes.index("train") + 1
    for name in list_names(tmp_path / "w", "val"):
        path = tmp_path / "w" / "SegmentationGround" / f"{name}.png"
        rail = read_mask(path) == names.index("railroad") + 1
        labelled, total = labelled + rail[:, 20:].sum(), total + rail.sum()
    assert total > 100
    found = leaks(profile, "val", said, truth)
    assert found["railroad->train"] == pytest.approx(labelled / total)
    assert found["water->boat"] == 0


def test_rows_come_from_the_masks_on_disk(small_voc, tmp_path):
    profile = profile_of(small_voc)
    for name, (height, width), k in (("p8", (24, 32), 9), ("p9", (32, 20), 10)):
        mask = np.zeros((height, width), np.uint8)
        mask[4:12, 4:12] = k if name == "p8" else 0  # p9's object is missed
        write_mask(tmp_path / "m" / f"{name}.png", mask)
    (tmp_path / "m-abc").symlink_to(tmp_path / "m")
    (row,) = measure_masks(profile, "by hand", {"val": tmp_path / "m-abc"})
    inside = 24 * 32 - 32 + 32 * 20 - 20  # but for the 255 in the first line
    background = (inside - 128) / (inside - 64)
    assert row["miou"] == pytest.approx((background + 1 + 0) / 3, abs=1e-4)
    assert row["iou"]["chair"] == 1 and row["iou"]["cow"] == 0 and row["iou"]["boat"] is None


def test_pictures_without_labels_are_segmented_and_packed(small_voc, tmp_path, capsys):
    """VOC's test pictures have neither masks nor lists of labels."""
    for i, size in enumerate(((30, 17), (9, 32))):
        Image.new("RGB", size, (40 * i, 99, 0)).save(small_voc / f"JPEGImages/t{i}.jpg")
    (small_voc / "ImageSets/Segmentation/test.txt").write_text("t0\nt1\n")
    settings = [
        f'data_root="{small_voc}"',
        f'outputs="{tmp_path}/out"',
        "data.size=32",
        "data.train=8",
        "data.val=2",
        "data.labelled=3",
        "augment.crop=32",
        "pseudo.method=cam",
        "pseudo.crf=false",
        "deeplab.batch=4",
    ]
    overrides = [word for s in settings for word in ("-p", s)]
    for method in ("deeplab_cam", "supervised"):
        assert main(["segment", method, "--profile", "voc2012_smoke", *overrides]) == 0
        folder = capsys.readouterr().out.strip()
        assert [Image.open(f"{folder}/t{i}.png").size for i in (0, 1)] == [(30, 17), (9, 32)]
        out = ["--out", str(tmp_path / "a.tgz")]
        assert main(["submission", folder, "--root", str(small_voc), *out]) == 0
        assert (tmp_path / "a.tgz").is_file()
        capsys.readouterr()
    assert main(["segment", "deeplab_clim", "--profile", "voc2012_smoke", *overrides]) == 1
    assert "no method 'deeplab_clim'; did you mean deeplab_cam?" in capsys.readouterr().err


def test_a_segmentation_asks_for_no_labels(small_voc):
    profile = profile_of(small_voc, "pseudo.method=cam", "pseudo.crf=false", "deeplab.batch=4")
    images = read_split(profile, "val")[0]
    for predict in (predictor(profile, "deeplab_cam"), predictor(profile, "supervised")):
        masks = predict(images)
        assert masks.shape == (2, 32, 32) and masks.dtype == torch.uint8 and masks.max() <= 20


def test_papers_choose_on_the_pictures_that_they_score(small_voc):
    """The best of their thresholds on VOC's own train list, found by trying each on disk."""
    tried = [0.1, 0.3, 0.6]
    theirs = f"inference.published_thresholds={tried}"
    profile = profile_of(small_voc, theirs)
    split = profile.data.seeds_on
    rule, truth = masks.published_rule(profile, "cam"), read_split(profile, split, masks=True)[2][:]
    scores = []
    for threshold in tried:
        one = profile_of(small_voc, theirs, f"inference.thresholds=[{threshold}]")
        found = masks.pseudo_masks(one, "cam", split)
        scores.append(metrics.miou(metrics.confusion(truth, found, 21)))
    assert rule["miou"] == pytest.approx(max(scores), abs=1e-6)
    assert rule["threshold"] == tried[scores.index(max(scores))]


def test_maps_are_scored_on_vocs_train_list_too(small_voc):
    rows = measure(profile_of(small_voc), "cam")
    assert [row["split"] for row in rows] == ["train_labelled", "val"]
    assert rows[0]["published_rule"].keys() == {"threshold", "miou"}
    assert "published_rule" not in rows[1] and rows[0]["profile"] == "voc2012_smoke"
