"""Brushes of the MiniWorld: a pen in an object's own units, soft noise and random colours."""

import colorsys
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]

GLASS = (48, 62, 84)
DARK = (28, 28, 32)

_CIRCLE = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 19)[:-1]]


class Layout(NamedTuple):
    """Where things stand in a picture; lengths in pixels of the large canvas, y downwards."""

    side: int  # width and height of the canvas
    horizon: int  # first row of the ground (of the land, when the ground is the sky)
    vanish: Point | None  # where parallels meet; None: seen from the side
    track: float  # side view: row of the rails; else: column where the track leaves the picture
    gauge: float  # distance of the rails at the lower picture border


class Pen:
    """Draws one object in its own units: u to the right, v upwards, (0, 0) its standing point."""

    def __init__(
        self,
        layout: Layout,
        x: float,
        y: float,
        unit: float,
        flip: bool = False,
        angle: float = 0.0,
    ):
        self.image = Image.new("RGBA", (layout.side, layout.side))
        self._draw = ImageDraw.Draw(self.image)
        self.x, self.y, self.unit = x, y, unit
        sign = -1.0 if flip else 1.0
        self._cos, self._sin = math.cos(angle) * unit, math.sin(angle) * unit
        self._sign = sign
        self.vanish = None
        if layout.vanish is not None:
            self.vanish = (sign * (layout.vanish[0] - x) / unit, (y - layout.vanish[1]) / unit)

    def grow(self, factor: float) -> None:
        """Make the unit longer."""
        self.unit, self._cos, self._sin = (
            factor * length for length in (self.unit, self._cos, self._sin)
        )

    def _pixels(self, points: Iterable[Point]) -> list[Point]:
        c, s, sign, x, y = self._cos, self._sin, self._sign, self.x, self.y
        return [(x + sign * (c * u - s * v), y - (s * u + c * v)) for u, v in points]

    def polygon(self, points: Iterable[Point], fill: Colour) -> None:
        self._draw.polygon(self._pixels(points), fill=(*fill, 255))

    def box(self, u0: float, v0: float, u1: float, v1: float, fill: Colour) -> None:
        self.polygon(((u0, v0), (u1, v0), (u1, v1), (u0, v1)), fill)

    def ellipse(self, u: float, v: float, ru: float, rv: float, fill: Colour) -> None:
        self.polygon([(u + ru * a, v + rv * b) for a, b in _CIRCLE], fill)

    def line(
        self, points: Sequence[Point], width: float, fill: Colour, round_ends: bool = True
    ) -> None:
        """A stroke `width` units thick, at least one pixel."""
        pixels = max(1, round(width * self.unit))
        self._draw.line(self._pixels(points), fill=(*fill, 255), width=pixels, joint="curve")
        if round_ends and pixels > 2:
            for u, v in (points[0], points[-1]):
                self.ellipse(u, v, width / 2, width / 2, fill)

    def spots(self, ellipses: Iterable[tuple[float, float, float, float]], fill: Colour) -> None:
        """Ellipses (u, v, ru, rv) that show only on what is drawn already."""
        drawn = self.image.getchannel("A")
        for spot in ellipses:
            self.ellipse(*spot, fill)
        self.image.putalpha(drawn)


def noise(rng: np.random.Generator, rows: int, columns: int, side: int) -> np.ndarray:
    """Smooth noise: rows x columns random values drawn out to (side, side), in [-1, 1]."""
    small = rng.random((rows, columns), dtype=np.float32) * 2 - 1
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def grain(rng: np.random.Generator, side: int) -> np.ndarray:
    """Noise of single pixels, (side, side, 1) in [-1, 1]."""
    return rng.random((side, side, 1), dtype=np.float32) * 2 - 1


def soft_mask(side: int, polygons: Iterable[Sequence[Point]], radius: float) -> np.ndarray:
    """Filled polygons (pixels) with blurred edges, (side, side, 1) in [0, 1]."""
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    for points in polygons:
        draw.polygon(points, fill=255)
    return np.asarray(mask.filter(ImageFilter.BoxBlur(radius)), np.float32)[..., None] / 255


def circle(x: float, y: float, rx: float, ry: float) -> list[Point]:
    """The corners of an ellipse, in the units of the arguments."""
    return [(x + rx * a, y + ry * b) for a, b in _CIRCLE]


def colour(
    rng: np.random.Generator,
    hue: tuple[float, float] = (0.0, 1.0),
    saturation: tuple[float, float] = (0.3, 0.9),
    value: tuple[float, float] = (0.3, 0.95),
) -> Colour:
    """A random colour between bounds of hue, saturation and value, each in [0, 1]."""
    h, s, v = (rng.uniform(*bounds) for bounds in (hue, saturation, value))
    red, green, blue = (int(255 * c) for c in colorsys.hsv_to_rgb(h % 1, s, v))
    return red, green, blue


def paint(rng: np.random.Generator) -> Colour:
    """A random colour for made things: vivid, white, grey or black."""
    kind = rng.random()
    if kind < 0.7:
        return colour(rng)
    if kind < 0.85:
        return colour(rng, saturation=(0.0, 0.08), value=(0.8, 1.0))
    return colour(rng, saturation=(0.0, 0.1), value=(0.1, 0.6))


def shade(fill: Colour, factor: float) -> Colour:
    """The colour made darker (factor < 1) or lighter (> 1)."""
    red, green, blue = (min(255, int(c * factor)) for c in fill)
    return red, green, blue


def pick(
    rng: np.random.Generator, options: Sequence, weights: Sequence[float] | None = None
) -> Any:
    """One of the options, by weight if given."""
    if weights is None:
        return options[int(rng.integers(len(options)))]
    threshold = rng.random() * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        threshold -= weight
        if threshold < 0:
            return option
    return options[-1]
