"""What the panels show: pictures of the MiniWorld, and maps drawn over them, not measured.

Maps are made from the scene's own layers, which no method sees: they look as maps do, and say
nothing about how good a method is. What comes after a map (random walk, CRF) the library computes
from it. All is drawn anew from fixed numbers, in milliseconds.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from clims_lib import crf, plots
from clims_lib.miniworld import CLASSES, Scene, draw_scene

SIZE = 96  # pixels: about one a point where they are shown
NOTE = "pictures: MiniWorld; maps: drawn for this sketch, not measured"
TRAIN_LABEL = CLASSES.index("train") + 1
SCENES = {  # noun: ground, backdrop, seed
    "train": ("railroad", "trees", 12),
    "boat": ("water", "hills", 24),
    "person": ("grass", "buildings", 18),
}


@cache
def scene(noun: str = "train") -> Scene:
    """One of SCENES, SIZE x SIZE pixels."""
    ground, backdrop, seed = SCENES[noun]
    return draw_scene(np.random.default_rng(seed), [noun], ground, backdrop, SIZE)


def picture_of(noun: str = "train") -> np.ndarray:
    """The scene's picture, uint8 (3, H, W), as `plots` takes it."""
    return scene(noun).image.transpose(2, 0, 1)


def as_batch(noun: str = "train") -> Tensor:
    """The picture as the pieces take it: float (1, 3, H, W) in [0, 1]."""
    return torch.tensor(picture_of(noun))[None] / 255


def layer(name: str, blur: float = 3.0, noun: str = "train") -> np.ndarray:
    """Where a thing is (`train`, `railroad`, `sky`, `trees`), float (H, W) in [0, 1], blurred."""
    drawn = scene(noun)
    index = [thing.name for thing in drawn.things].index(name)
    there = Image.fromarray((255 * (drawn.thing_map == index)).astype(np.uint8))
    soft = np.asarray(there.filter(ImageFilter.GaussianBlur(blur)), dtype=float)
    return soft / soft.max()


def rails() -> np.ndarray:
    """The railroad near the train, blurred, float (H, W) in [0, 1]."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    near = layer("railroad", 2.0) * np.exp(-((x - 0.6) ** 2 / 0.1 + (y - 0.72) ** 2 / 0.012))
    return near / near.max()


def leaking() -> np.ndarray:
    """A map (H, W) as CAM's: parts of the train, and the rails below it."""
    return np.clip(front(0.35) + 0.8 * rails(), 0, 1)


def tight() -> np.ndarray:
    """A map (H, W) as CLIMS's: the train, brighter in some parts, and little else."""
    return front(0.6)


def front(rest: float) -> np.ndarray:
    """A map (H, W) of the train, 1 at its front and `rest` at its other end."""
    x = np.linspace(0, 1, SIZE)
    return layer("train") * (rest + (1 - rest) * np.exp(-((x - 0.55) ** 2) / 0.03))


def kept(share: np.ndarray) -> np.ndarray:
    """The train's picture x a map, uint8 (H, W, 3); what is gone is grey, as it is for CLIP."""
    grey = 122.0  # about CLIP's mean colour
    return (share[..., None] * scene().image + (1 - share[..., None]) * grey).astype(np.uint8)


def crf_mask(cam: np.ndarray, threshold: float = 0.35) -> np.ndarray:
    """The mask uint8 (H, W) that the dense CRF makes of a train's map."""
    kernels = {"gaussian_sxy": 3.0, "bilateral_sxy": 20.0, "bilateral_srgb": 0.1}
    found = crf.refine_cam(as_batch()[0], torch.tensor(cam)[None], threshold, **kernels)
    return found.numpy() * np.uint8(TRAIN_LABEL)


def over(cam: np.ndarray) -> np.ndarray:
    """A map over the train's picture, (H, W, 3)."""
    return plots.map_over(picture_of(), cam)
