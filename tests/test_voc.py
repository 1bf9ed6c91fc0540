"""The data set reads VOC-layout folders, and a broken one gives an error that names the file."""

import numpy as np
import pytest
import torch
from PIL import Image

from clims_lib.data.voc import (
    VOC_CLASSES,
    VOCFolder,
    class_names,
    ground_names,
    read_image,
    read_mask,
    write_mask,
)
from clims_lib.labels import palette

CLASSES = ("boat", "cow", "train")
MASKS = {"a": [[0, 1], [1, 255]], "b": [[3, 3], [2, 0]], "c": [[0, 0], [0, 0]]}


def write_lines(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def root(tmp_path):
    """Three pictures of 40 x 20 pixels, masks in 2 x 2 blocks, two lists, no ImageSets/Main."""
    write_lines(tmp_path / "classes.txt", *CLASSES)
    write_lines(tmp_path / "ImageSets/Segmentation/train.txt", "a", "b")
    write_lines(tmp_path / "ImageSets/Segmentation/val.txt", "c")
    (tmp_path / "JPEGImages").mkdir()
    for shade, (name, blocks) in enumerate(MASKS.items()):
        pixels = np.full((20, 40, 3), 60 * shade, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"JPEGImages/{name}.jpg")
        mask = np.array(blocks, np.uint8).repeat(10, 0).repeat(20, 1)
        write_mask(tmp_path / f"SegmentationClass/{name}.png", mask)
    return tmp_path


def write_main(root, split, labels):
    for k, name in enumerate(CLASSES):
        lines = [f"{picture}  {label[k]}" for picture, label in labels.items()]
        write_lines(root / f"ImageSets/Main/{name}_{split}.txt", *lines)


def test_palette_is_vocs():
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert palette().shape == (256, 3) and palette().dtype == np.uint8
    assert {k: tuple(palette()[k].tolist()) for k in known} == known


def test_sample(root):
    data = VOCFolder(root, "train")
    assert (len(data), data.names, data.classes) == (2, ("a", "b"), CLASSES)
    sample = data[1]
    assert sample.name == "b"
    assert sample.image.shape == (3, 20, 40) and sample.image.dtype == torch.uint8
    assert abs(sample.image.int() - 60).max() <= 2  # JPEG is nearly exact on one colour
    assert sample.label.tolist() == [0, 1, 1] and sample.label.dtype == torch.float32
    assert sample.mask.dtype == torch.uint8
    assert sample.mask[::10, ::20].tolist() == MASKS["b"]
    assert data.label(0).tolist() == [1, 0, 0]  # 255 is no class
    assert VOCFolder(root, "val").label(0).tolist() == [0, 0, 0]


def test_without_masks_the_label_is_there_and_the_mask_is_not(root):
    sample = VOCFolder(root, "train", masks=False)[0]
    assert sample.mask is None and sample.label.tolist() == [1, 0, 0]


def test_image_level_labels_win_and_need_no_masks(root):
    write_main(root, "train", {"a": (-1, -1, 1), "b": (0, -1, -1)})  # 0: hard to see, but there
    (root / "SegmentationClass/a.png").unlink()
    data = VOCFolder(root, "train", masks=False)
    assert data.label(0).tolist() == [0, 0, 1] and data.label(1).tolist() == [1, 0, 0]


def test_image_level_labels_of_a_split_within_another(root):
    write_main(root, "train", {"a": (-1, -1, 1)})
    write_main(root, "val", {"c": (1, 1, 1)})
    write_lines(root / "ImageSets/Segmentation/weak.txt", "a", "b", "c")
    labels = [VOCFolder(root, "weak").label(i).tolist() for i in range(3)]
    assert labels == [[0, 0, 1], [0, 1, 1], [1, 1, 1]]  # b is in no list: from its mask


def test_some_of_the_classes_in_another_order(root):
    data = VOCFolder(root, "train", classes=("train", "boat"))
    assert data[1].mask[::10, ::20].tolist() == [[1, 1], [0, 0]]
    assert data[0].mask[::10, ::20].tolist() == [[0, 2], [2, 255]]
    assert data[1].label.tolist() == [1, 0]


def test_masks_of_the_augmented_set_fill_the_gaps_only(root):
    write_mask(root / "SegmentationClassAug/a.png", np.full((20, 40), 2))
    assert VOCFolder(root, "train")[0].label.tolist() == [1, 0, 0]  # VOC's own mask is there
    (root / "SegmentationClass/a.png").unlink()
    sample = VOCFolder(root, "train")[0]
    assert sample.label.tolist() == [0, 1, 0] and bool((sample.mask == 2).all())


def test_classes_default_to_voc(tmp_path):
    assert class_names(tmp_path) == VOC_CLASSES and len(VOC_CLASSES) == 20


def test_ground(root):
    write_mask(root / "SegmentationGround/a.png", np.full((20, 40), 2, np.uint8))
    data = VOCFolder(root, "train")
    assert data.ground(0).unique().tolist() == [2]
    with pytest.raises(ValueError, match=r"SegmentationGround.b\.png is missing"):
        data.ground(1)
    with pytest.raises(ValueError, match=r"grounds\.txt is missing"):
        ground_names(root)


def test_masks_survive_the_disk(tmp_path):
    mask = np.random.default_rng(0).integers(0, 256, (7, 5), dtype=np.uint8)
    path = tmp_path / "new" / "m.png"
    write_mask(path, mask)
    assert (read_mask(path) == mask).all()
    write_mask(path, torch.zeros(7, 5, dtype=torch.int64))  # a tensor, over the old file
    assert not read_mask(path).any()
    assert [p.name for p in path.parent.iterdir()] == ["m.png"]  # no temporary file is left
    picture = Image.open(path)
    assert picture.mode == "P" and picture.getpalette() == palette().ravel().tolist()


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.full((2, 2), 256), np.zeros(3, int)])
def test_write_mask_refuses_what_is_no_mask(tmp_path, mask):
    with pytest.raises(ValueError, match=r"m\.png must be whole numbers 0\.\.255"):
        write_mask(tmp_path / "m.png", mask)
    assert not list(tmp_path.iterdir())


def test_missing_mask(root):
    (root / "SegmentationClass/b.png").unlink()
    with pytest.raises(ValueError, match=r"SegmentationClass.b\.png is missing"):
        VOCFolder(root, "train")


def test_missing_picture(root):
    (root / "JPEGImages/a.jpg").unlink()
    with pytest.raises(ValueError, match=r"JPEGImages.a\.jpg is missing"):
        VOCFolder(root, "train")


def test_wrong_size(root):
    write_mask(root / "SegmentationClass/b.png", np.zeros((20, 41), np.uint8))
    with pytest.raises(ValueError, match=r"b\.png is 41 x 20 pixels, its picture 40 x 20"):
        VOCFolder(root, "train")[1]


def test_missing_list_names_those_that_exist(root):
    with pytest.raises(ValueError, match=r"test\.txt; lists that exist: train, val"):
        VOCFolder(root, "test")


def test_empty_list(root):
    write_lines(root / "ImageSets/Segmentation/val.txt", "", " ")
    with pytest.raises(ValueError, match=r"val\.txt is empty"):
        VOCFolder(root, "val")


@pytest.mark.parametrize("lines", [("a", "a"), ("a b",), ("JPEGImages/a.jpg",)])
def test_strange_list(root, lines):
    write_lines(root / "ImageSets/Segmentation/val.txt", *lines)
    with pytest.raises(ValueError, match=r"val\.txt has the line"):
        VOCFolder(root, "val")


@pytest.mark.parametrize("masks", [True, False])
def test_unknown_class_index_in_a_mask(root, masks):
    write_mask(root / "SegmentationClass/a.png", np.full((20, 40), 4, np.uint8))
    with pytest.raises(ValueError, match=r"a\.png holds the class indices \[4\].* only 3 classes"):
        VOCFolder(root, "train", masks=masks)[0]


@pytest.mark.parametrize("classes", [("boat", "zebra"), ("boat", "boat"), ()])
def test_unknown_class_name(root, classes):
    with pytest.raises(ValueError, match="must be one of .*: boat, cow, train"):
        VOCFolder(root, "train", classes=classes)


def test_truncated_jpeg(root):
    path = root / "JPEGImages/a.jpg"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"picture .*a\.jpg, it may be cut short"):
        VOCFolder(root, "train")[0]


@pytest.mark.parametrize("keep", [0, 20, 60, 200])
def test_truncated_mask(tmp_path, keep):
    path = tmp_path / "m.png"
    write_mask(path, np.random.default_rng(0).integers(0, 9, (40, 40), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"mask .*m\.png"):
        read_mask(path)


def test_mask_that_is_a_photograph(root):
    with pytest.raises(ValueError, match=r"a\.jpg is a RGB picture: a mask is a palette PNG"):
        read_mask(root / "JPEGImages/a.jpg")


def test_grey_picture_becomes_rgb(tmp_path):
    Image.new("L", (5, 4), 70).save(tmp_path / "grey.jpg")
    assert read_image(tmp_path / "grey.jpg").shape == (3, 4, 5)


def test_class_without_its_list(root):
    write_main(root, "train", {"a": (-1, -1, 1), "b": (1, -1, -1)})
    (root / "ImageSets/Main/cow_train.txt").unlink()
    with pytest.raises(ValueError, match=r"there is no list .*cow_train\.txt"):
        VOCFolder(root, "train")


def test_picture_in_some_lists_only(root):
    write_main(root, "train", {"a": (-1, -1, 1), "b": (1, -1, -1)})
    write_lines(root / "ImageSets/Main/cow_train.txt", "a  -1")
    with pytest.raises(ValueError, match="no cow list has the picture b"):
        VOCFolder(root, "train")


def test_strange_label_line(root):
    write_main(root, "train", {"a": (-1, "yes", 1)})
    with pytest.raises(ValueError, match=r"cow_train\.txt has the line 'a  yes'"):
        VOCFolder(root, "train")
