"""Which colour stands for what: one a method in every chart, one a class in every shown mask.

Tests hold both against simulated colour blindness. Files keep VOC's own palette, `labels.palette`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from clims_lib.labels import IGNORE

# Of Okabe and Ito: anything that is neither a method nor a class.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
NEUTRAL = "#8C8C8C"  # beside methods, what is none

# A family has one hue; what is done to its maps, or left out, makes it darker or paler.
_FAMILIES: dict[str, dict[str, float]] = {  # colour: {method: -1 black ... 1 white}
    "#0072B2": {
        "cam": 0,
        "cam_longer": 0.35,
        "cam_area": 0.6,
        "cam_corpus": 0.17,
        "cam_corpus_train": 0.47,
        "cam_corpus_tower": 0.75,
        "cam_walk": -0.2,
        "cam_crf": -0.4,
        "cam_walk_crf": -0.6,
    },
    "#CC79A7": {
        "puzzle_cam": 0,
        "puzzle_cam_walk": -0.2,
        "puzzle_cam_crf": -0.4,
        "puzzle_cam_walk_crf": -0.6,
    },
    "#D55E00": {
        "clims": 0,
        "clims_walk": -0.2,
        "clims_crf": -0.4,
        "clims_walk_crf": -0.6,
        "clims_no_otm": 0.2,
        "clims_no_btm": 0.35,
        "clims_no_cbs": 0.5,
        "clims_no_reg": 0.62,
        "clims_random_blobs": 0.7,
        "clims_whole_pictures": 0.78,
    },
    "#009E73": {
        "supervised": 0.65,
        "supervised_scratch": 0.82,
        "pseudo_only": 0.35,
        "cct": 0,
        "cct_longer": 0.17,
        "cct_cam": -0.25,
        "cct_clims": -0.45,
    },
    "#56B4E9": {
        "deeplab_clims": 0,
        "deeplab_clims_longer": -0.3,
        "deeplab_cam": 0.3,
        "deeplab_cam_longer": 0.5,
    },
    "#000000": {"full_masks": 0, "full_masks_crf": 0.35},
}


def _shaded_by(colour: str, amount: float) -> str:
    """Mix "#RRGGBB" with white (amount > 0) or black (< 0): another lightness, the same hue."""
    end = 255 if amount > 0 else 0
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(p + abs(amount) * (end - p)):02X}" for p in parts)


METHOD_COLOURS = {
    method: _shaded_by(colour, amount)
    for colour, methods in _FAMILIES.items()
    for method, amount in methods.items()
}


def colours_of(names: Iterable[str], others: Sequence[str] = COLOURS) -> list[str]:
    """A colour for each name of a chart: "#RRGGBB".

    Rows of the results ("clims_crf") and their titles ("CLIMS + CRF", "PuzzleCAM") have the
    method's; a row that METHOD_COLOURS lacks has that of the method its name begins with. Beside
    them other names are NEUTRAL. A chart without any method goes through `others`.
    """
    found = [_method_colour(name) for name in names]
    if not any(found):
        return [others[i % len(others)] for i in range(len(found))]
    return [colour or NEUTRAL for colour in found]


def _method_colour(name: str) -> str | None:
    words = re.sub(r"[^a-z]+", "_", name.lower()).strip("_").replace("puzzlecam", "puzzle_cam")
    begins = [method for method in METHOD_COLOURS if name.startswith(f"{method}_")]
    nearest = max(begins, key=len, default=words)
    return METHOD_COLOURS.get(words, METHOD_COLOURS.get(nearest))


# Of the classes 1..20 on black, found by a search for the largest distance between any two, and to
# the white of 255, for full colour vision, protanopia and deuteranopia. The first six, MiniWorld's,
# lie farther apart than all twenty can.
_CLASSES = (
    "#004EEB #EBB100 #B11462 #9D4E00 #EB89FF #27B189 #9D62FF #893B9D #C4629D #FF6276 "
    "#279DC4 #FFFF00 #FF4E00 #89EBFF #14FFC4 #FF9DC4 #B1EB89 #147676 #279D27 #B14E4E"
).split()


def shown_palette() -> np.ndarray:
    """Colours of masks on the screen, uint8 (256, 3): 0 black, classes 1..20, 255 white.

    Classes beyond the twentieth, which no data set here has, begin again.
    """
    classes = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in _CLASSES], np.uint8)
    colours = classes[(np.arange(256) - 1) % len(classes)]
    colours[0], colours[IGNORE] = 0, 255
    return colours
