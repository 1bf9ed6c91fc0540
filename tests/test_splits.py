"""Splits of a VOC-layout folder: derived lists, checked sizes, canvases; and what is missing."""

import pytest
import torch
from conftest import profile_of
from PIL import Image

from clims_lib.batches import FILL
from clims_lib.config import load_profile
from clims_lib.data.splits import (
    make_data,
    open_split,
    read_sizes,
    read_split,
    split_folder,
    subset,
    subset_settings,
)
from clims_lib.data.voc import VOC_CLASSES, read_mask, write_mask
from clims_lib.stages.clip import find_clip, make_clip, missing, runnable
from clims_lib.stages.first_weights import load_imagenet
from clims_lib.stages.masks import make_pseudo_masks, pseudo_masks, read_folder


def test_pictures_of_all_sizes_lie_on_one_canvas(small_voc):
    profile = profile_of(small_voc)
    images, labels, masks = read_split(profile, "val", masks=True)
    assert images.shape == (2, 3, 32, 32) and masks.shape == (2, 32, 32)
    assert read_sizes(profile, "val").tolist() == [[24, 32], [32, 20]]
    folder = open_split(profile, "val", masks=True)
    for i, (height, width) in enumerate(((24, 32), (32, 20))):
        assert torch.equal(images[i, :, :height, :width], folder[i].image)
        assert torch.equal(masks[i, :height, :width], folder[i].mask)
    assert (masks[0, 24:] == 255).all() and images[0, :, 31, 0].tolist() == list(FILL)
    assert labels.argmax(1).tolist() == [8, 9] and labels.sum() == 2
    assert read_split(profile, "val")[2] is None


def test_lists_that_a_data_set_lacks_are_derived_from_train(small_voc):
    profile = profile_of(small_voc)
    labelled, weak = (open_split(profile, s).names for s in ("train_labelled", "train_weak"))
    assert len(labelled) == 3 and sorted(labelled + weak) == [f"p{i}" for i in range(8)]
    (small_voc / "ImageSets" / "Segmentation" / "train_labelled.txt").write_text("p1\n")
    assert open_split(profile, "train_labelled").names == ("p1",)


@pytest.mark.parametrize("own", [False, True])
def test_a_part_of_train_is_stored_once(small_voc, own):
    """Its rows are pictures and masks as they are read one by one, in whichever way they are asked
    for; what is not all in train is stored by itself."""
    if own:
        lists = small_voc / "ImageSets" / "Segmentation"
        (lists / "train_labelled.txt").write_text("p9\np3\np1\n")  # p9 is val's
        (lists / "train_weak.txt").write_text("p2\np0\np7\n")  # in another order than train's
    profile = profile_of(small_voc)
    for split in ("train_labelled", "train_weak"):
        images, labels, masks = read_split(profile, split, masks=True)
        folder = open_split(profile, split, masks=True)
        stored = own and split == "train_labelled"
        files = {path.name for path in split_folder(profile, split).iterdir()} - {"manifest.json"}
        assert files == ({"images.npy", "images_sizes.npy"} if stored else {"rows.npy"})
        assert len(images) == len(masks) == len(labels) == len(folder)
        assert images.shape == (len(folder), 3, 32, 32) and masks.shape == (len(folder), 32, 32)
        for i, (height, width) in enumerate(read_sizes(profile, split).tolist()):
            assert torch.equal(images[i, :, :height, :width], folder[i].image)
            assert torch.equal(masks[i][:height, :width], folder[i].mask)
        some = torch.tensor([2, 0])
        assert torch.equal(images[some], torch.stack([images[2], images[0]]))
        assert torch.equal(images[[2, 0], :, 1:5], images[some][:, :, 1:5])
        assert torch.equal(masks[1:], torch.stack([masks[i] for i in range(1, len(masks))]))
    weak = open_split(profile, "train_weak").names
    for name in open_split(profile, "train").names:  # the key follows its own pictures alone
        before = split_folder(profile, "train_weak", "masks")
        mask = read_mask(small_voc / "SegmentationClass" / f"{name}.png")
        write_mask(small_voc / "SegmentationClass" / f"{name}.png", mask * (mask == 255))
        assert (split_folder(profile, "train_weak", "masks") != before) == (name in weak)
    assert (read_split(profile, "train_weak", masks=True)[2][:] % 255 == 0).all()


def test_masks_of_the_labelled_pictures_alone_are_enough(small_voc):
    """The other pictures have labels in ImageSets/Main; no mask of theirs is asked for."""
    profile = profile_of(small_voc)
    main = small_voc / "ImageSets" / "Main"
    main.mkdir()
    for name in VOC_CLASSES:
        lines = [f"p{i} {1 if name == VOC_CLASSES[i] else -1}" for i in range(8)]
        (main / f"{name}_trainaug.txt").write_text("\n".join(lines))
    (small_voc / "ImageSets" / "Segmentation" / "train_labelled.txt").write_text("p1\np4\np6\n")
    for i in (0, 2, 3, 5, 7):
        (small_voc / "SegmentationClass" / f"p{i}.png").unlink()
    images, _, masks = read_split(profile, "train_labelled", masks=True)
    assert {path.name for path in split_folder(profile, "train_labelled").glob("*.npy")} == {
        "rows.npy"
    }
    assert len(images) == len(masks) == 3 and masks.shape == (3, 32, 32)


def test_a_list_of_another_length_is_refused(small_voc):
    with pytest.raises(ValueError, match="trainaug has 8 pictures, not 10582"):
        open_split(profile_of(small_voc, "data.train=10582"), "train")
    assert len(open_split(profile_of(small_voc, "data.train=0"), "train")) == 8  # 0: however many


def test_drawn_subsets_are_the_start_of_one_permutation(small_voc):
    """The release's lists are sorted by year, so that the first pictures are all of 2007."""
    for seed in (0, 1):
        profile = profile_of(small_voc, f"seed={seed}")
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed)).tolist()
        found = [subset(profile, "train", n) for n in range(9)]
        assert found == [sorted(order[:n]) for n in range(9)]
        assert all(set(a) < set(b) for a, b in zip(found, found[1:], strict=False))  # they nest
    assert found[3] != [0, 1, 2] and found[3] != subset(profile_of(small_voc), "train", 3)
    first = profile_of(small_voc, "data.subsets=first")
    assert subset(first, "train", 3) == [0, 1, 2]
    for one in (first, profile):  # whole splits stay in order, and depend on nothing
        assert subset(one, "train", None) == subset(one, "train", 99) == list(range(8))
        assert subset_settings(one, "train", 8) == subset_settings(one, "train", None) == []
    assert subset_settings(first, "train", 7) == ["data.subsets"]
    assert subset_settings(profile, "train", 7) == ["data.subsets", "seed"]
    with pytest.raises(ValueError, match="'drawm' is no choice; did you mean drawn"):
        profile_of(small_voc, "data.subsets=drawm")


def test_no_data_set_says_how_to_get_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="--data-root.*VOC_ROOT.*clims download"):
        make_data(profile_of(tmp_path / "nothing"))


def test_voc_root_names_a_labs_copy(small_voc, monkeypatch):
    monkeypatch.setenv("VOC_ROOT", str(small_voc))
    assert load_profile("voc2012").data_root == small_voc
    assert load_profile("mini").data_root.name == "miniworld"
    assert load_profile("voc2012", ["data_root=elsewhere"]).data_root.name == "elsewhere"


def test_without_clips_weights_everything_else_runs(small_voc):
    profile = profile_of(small_voc, "clip_checkpoint=ViT-B/32")
    absent = missing(profile)
    assert set(absent) == {"clip", "grounds"} and "ViT-B-32.pt" in absent["clip"]
    assert runnable(profile, ("cam", "clims", "puzzle_cam", "cct_clims")) == ["cam", "puzzle_cam"]
    assert runnable(profile, ("clip", "clip_finetuned")) == []
    with pytest.raises(FileNotFoundError, match="clims download weights"):
        make_clip(profile)
    (small_voc.parent / "weights").mkdir()
    (small_voc.parent / "weights" / "ViT-B-32.pt").write_bytes(b"here")
    assert set(missing(profile)) == {"grounds"}
    assert find_clip(profile).name == "ViT-B-32.pt"
    with pytest.raises(FileNotFoundError, match="resnet50.*put https"):
        load_imagenet(torch.nn.Identity(), small_voc.parent / "weights")


def test_pseudo_masks_have_their_pictures_sizes(small_voc):
    profile = profile_of(small_voc, "cam.batch=4", "inference.scales=[1.0]")
    folder = make_pseudo_masks(profile, "cam", "train_weak")
    weak = open_split(profile, "train_weak", masks=True)
    masks = read_folder(profile, folder, "train_weak")
    sizes = read_sizes(profile, "train_weak").tolist()
    for i, (name, (height, width)) in enumerate(zip(weak.names, sizes, strict=True)):
        assert Image.open(folder / f"{name}.png").size == (width, height)
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[:height, :width] = True
        assert (masks[i][~inside] == 255).all() and (masks[i][inside] <= len(VOC_CLASSES)).all()


def test_the_size_of_a_batch_changes_no_mask(small_voc):
    found = []
    for batch in (1, 3):
        profile = profile_of(
            small_voc,
            f"inference.batch={batch}",
            "device=cpu",
            f"outputs={small_voc.parent}/{batch}",
        )
        found.append(pseudo_masks(profile, "cam", "train"))
    assert (found[0] == found[1]).float().mean() > 0.99  # bf16 sums may differ in the last bit
