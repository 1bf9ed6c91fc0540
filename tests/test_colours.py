"""Colours are told apart, also by readers who do not see all of them, and on black."""

import colorsys
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from clims_lib.config import load_profile
from clims_lib.data.voc import write_mask
from clims_lib.labels import IGNORE, palette
from clims_lib.miniworld import CLASSES
from clims_lib.plots import METHOD_COLOURS, NEUTRAL, colours_of, shown_palette
from clims_lib.stages.methods import table_rows

# Machado, Oliveira and Fernandes 2009, severity 1, of linear RGB
SIGHT = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def linear(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def distances(colours: np.ndarray, sight: str) -> np.ndarray:
    """CIEDE2000 of each pair of colours, uint8 (N, 3), as somebody sees them."""
    color = pytest.importorskip("skimage.color")
    seen = np.clip(linear(colours / 255) @ np.transpose(SIGHT[sight]), 0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = color.rgb2lab(seen[None])[0]
    pairs = np.array(list(combinations(range(len(lab)), 2)))
    return color.deltaE_ciede2000(lab[pairs[:, 0]], lab[pairs[:, 1]])


def contrast(colours: np.ndarray, other: float) -> np.ndarray:
    """WCAG's contrast with a grey of that luminance."""
    luminance = linear(colours / 255) @ (0.2126, 0.7152, 0.0722)
    high, low = np.maximum(luminance, other), np.minimum(luminance, other)
    return (high + 0.05) / (low + 0.05)


def rgb(colours) -> np.ndarray:
    return np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours])


def test_the_measures_know_what_is_known():
    black_white = np.array([[0, 0, 0], [255, 255, 255]])
    assert contrast(black_white[1:], 0) == pytest.approx(21)
    navy = palette()[4:5]
    assert contrast(navy, 0) < 1.4  # why VOC's colours are not shown
    red_green = np.array([[180, 90, 0], [100, 130, 0]])
    assert distances(red_green, "deuteranopia") < distances(red_green, "full") / 2


@pytest.mark.parametrize(
    ("sight", "six", "twenty"), [("full", 32, 16), *((s, 19, 9.6) for s in list(SIGHT)[1:])]
)
def test_classes_are_told_apart(sight, six, twenty):
    shown = shown_palette()
    ours, ignored = len(CLASSES), shown[IGNORE : IGNORE + 1]
    assert distances(np.concatenate([shown[1 : ours + 1], ignored]), sight).min() > six
    assert distances(np.concatenate([shown[1:21], ignored]), sight).min() > twenty
    assert distances(palette()[1:21], sight).min() < 5  # VOC's own


def test_classes_are_seen_on_black():
    shown = shown_palette()
    assert shown.shape == (256, 3) and shown.dtype == np.uint8
    assert shown[0].tolist() == [0, 0, 0] and shown[IGNORE].tolist() == [255, 255, 255]
    assert contrast(shown[1:21], 0).min() > 3


def test_files_keep_vocs_palette(tmp_path):
    write_mask(tmp_path / "m.png", np.array([[0, 1], [15, 255]], np.uint8))
    written = Image.open(tmp_path / "m.png").convert("RGB")
    assert np.asarray(written).tolist() == [
        [[0, 0, 0], [128, 0, 0]],
        [[192, 128, 128], [224, 224, 192]],
    ]


@pytest.mark.parametrize("profile", ["mini", "voc2012", "voc2012_release", "voc2012_sample"])
def test_every_row_of_the_tables_has_a_colour_of_its_own(profile):
    rows = table_rows(load_profile(profile))
    for name, colour in zip(rows, colours_of(rows), strict=True):
        assert colour != NEUTRAL, f"give {name} a colour in plots/colours.py"
    known = [name for name in rows if name in METHOD_COLOURS]
    assert len(set(colours_of(known))) == len(known) > 10


def test_a_family_shares_a_hue():
    for family in ("cam", "clims", "puzzle_cam", "cct"):
        names = [name for name in METHOD_COLOURS if name.startswith(family)]
        values = rgb(METHOD_COLOURS[name] for name in names) / 255
        hues = np.array([colorsys.rgb_to_hsv(*value)[0] for value in values])
        assert len(names) > 2 and np.abs(hues - hues[0]).max() < 0.02, family


@pytest.mark.parametrize("sight", SIGHT)
def test_methods_that_stand_side_by_side_are_told_apart(sight):
    for names in (
        ("cam", "puzzle_cam", "clims", "cct_clims", "deeplab_clims", "full_masks"),
        ("cam", "clims", "clims_crf"),
        ("cct", "supervised", "pseudo_only", "cct_clims"),
        ("clims", "clims_no_otm", "clims_no_btm", "clims_no_cbs", "clims_no_reg"),
        ("clims", "cam", "cam_corpus", "cam_corpus_train", "cam_corpus_tower"),
    ):
        assert distances(rgb(colours_of(names)), sight).min() > 5, names


def test_names_find_their_colours():
    assert colours_of(["CAM", "PuzzleCAM", "CLIMS + CRF"]) == [
        METHOD_COLOURS[name] for name in ("cam", "puzzle_cam", "clims_crf")
    ]
    assert colours_of(["clims_tried_today"]) == [METHOD_COLOURS["clims"]]
    assert colours_of(["clims", "truth"]) == [METHOD_COLOURS["clims"], NEUTRAL]
    assert len(set(colours_of(["before", "after", "chance"]))) == 3
    assert colours_of(["a", "b"], ["#123456"]) == ["#123456"] * 2
