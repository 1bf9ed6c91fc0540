"""Arrays become pictures (H, W, 3), which `gallery` and `grid` show."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import ArrayLike

from clims_lib.labels import IGNORE
from clims_lib.plots.colours import shown_palette

HEAT, SIGNED = "viridis", "PuOr_r"  # of numbers from 0 on; of numbers around 0


class Scale(NamedTuple):
    """What the colours of a picture mean: a matplotlib colour map and the numbers at its ends."""

    colours: str
    low: float
    high: float


class Shaded(np.ndarray):
    """A picture (H, W, 3) of numbers that knows their scale, for the colour bar beside it.

    What is computed from it is a plain picture again.
    """

    scale: Scale | None

    def __array_finalize__(self, parent: object) -> None:
        self.scale = None


def shaded(pixels: np.ndarray, scale: Scale | None) -> Shaded:
    """The pixels, which say what scale they have."""
    shown = pixels.view(Shaded)
    shown.scale = scale
    return shown


def picture(image: ArrayLike) -> np.ndarray:
    """uint8 (3, H, W) or float in [0, 1] -> (H, W, 3) for imshow."""
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ValueError(f"a picture is (3, H, W), not {pixels.shape}")
    pixels = pixels.transpose(1, 2, 0)
    return pixels if pixels.dtype == np.uint8 else pixels.clip(0, 1)


def coloured(mask: ArrayLike) -> np.ndarray:
    """uint8 (H, W) -> (H, W, 3) in the colours of `shown_palette`; 255 (ignore) is white."""
    return shown_palette()[np.asarray(mask)]


def overlay(image: ArrayLike, mask: ArrayLike, opacity: float = 0.6) -> np.ndarray:
    """The picture with its mask laid over it where there is an object."""
    pixels = picture(image)
    pixels = pixels if pixels.dtype == np.uint8 else (255 * pixels).astype(np.uint8)
    where = (np.asarray(mask) > 0)[..., None] * opacity
    return (pixels * (1 - where) + coloured(mask) * where).astype(np.uint8)


def signed(values: ArrayLike, limit: float | None = None) -> np.ndarray:
    """(H, W) numbers -> (H, W, 3): purple below 0, orange above, white at 0 (colour-blind safe).

    limit: the number at both ends of the scale, by default the largest one here.
    """
    values = np.asarray(values, dtype=float)
    limit = limit or max(np.abs(values).max(), 1e-12)
    pixels = plt.get_cmap(SIGNED)(values / (2 * limit) + 0.5)[..., :3]
    return shaded(pixels, Scale(SIGNED, -limit, limit))


def heatmap(values: ArrayLike) -> np.ndarray:
    """(H, W) numbers in [0, 1] -> (H, W, 3): dark to bright, one scale for all pictures."""
    pixels = plt.get_cmap(HEAT)(np.clip(np.asarray(values, dtype=float), 0, 1))[..., :3]
    return shaded(pixels, Scale(HEAT, 0, 1))


def map_over(image: ArrayLike, cam: ArrayLike, opacity: float = 0.6) -> np.ndarray:
    """A map (H, W) in [0, 1] over its picture: the brighter, the more active."""
    pixels = picture(image)
    pixels = pixels / 255 if pixels.dtype == np.uint8 else pixels
    over = (1 - opacity) * pixels + opacity * plt.get_cmap(HEAT)(np.asarray(cam))[..., :3]
    return shaded(over, Scale(HEAT, 0, 1))


def outline(pixels: ArrayLike, mask: ArrayLike, least: int = 256) -> np.ndarray:
    """The borders of a mask's objects, uint8 (h, w), over what is shown of the picture (H, W, 3).

    A white line between two black ones is seen on any map. Picture and mask may differ in size;
    both are enlarged to at least `least` pixels, so that the line is thin.
    """
    shown = np.asarray(pixels)
    labels = np.where(np.asarray(mask) == IGNORE, 0, mask)
    factor = -(-least // max(shown.shape[:2]))
    size = (factor * shown.shape[0], factor * shown.shape[1])
    labels, large = _enlarged(labels, size), _enlarged(shown, size).copy()
    bright = 255 if large.dtype == np.uint8 else 1.0
    large[_border(labels, 2)] = 0
    large[_border(labels, 1)] = bright
    return shaded(large, getattr(pixels, "scale", None))


def _enlarged(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The nearest value for each place of a larger picture."""
    rows, columns = (np.arange(n) * old // n for n, old in zip(size, values.shape[:2], strict=True))
    return values[rows[:, None], columns]


def _border(labels: np.ndarray, reach: int) -> np.ndarray:
    """bool (H, W): pixels within `reach` of another label, straight up, down or sideways."""
    near = np.zeros(labels.shape, bool)
    for step in range(1, reach + 1):
        down, across = labels[step:] != labels[:-step], labels[:, step:] != labels[:, :-step]
        near[step:] |= down
        near[:-step] |= down
        near[:, step:] |= across
        near[:, :-step] |= across
    return near
