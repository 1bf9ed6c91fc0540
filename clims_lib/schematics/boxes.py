"""The style of all drawings: boxes, pictures, texts and arrows on a board measured in inches.

What a box is can be told without colour: what learns has a full border and round corners, what is
frozen a dashed one, a loss is an oval, and what has no weights has square corners.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path

from clims_lib.plots import attach_words

BOARD_WIDTH = 9.0  # inches, a notebook's, so that points are what they say
SMALL, NORMAL, LARGE = 9, 10, 12  # points
INK, GREY, LINE = "#1A1A1A", "#595959", 1.4
STREAMS: tuple[dict[str, Any], ...] = (  # arrows, where two kinds of pictures share a network
    {"colour": "#0072B2"},
    {"colour": "#B34700", "ls": (0, (4, 1.5))},
)
_ROUND = "round,pad=0,rounding_size={}"
BOX_KINDS: dict[str, dict[str, Any]] = {
    "network": {"boxstyle": _ROUND.format(0.12), "fc": "#BFDCF0", "ec": "#0072B2"},
    "frozen": {"boxstyle": _ROUND.format(0.12), "fc": "#EBEBEB", "ec": GREY, "ls": (0, (4, 2))},
    "loss": {"boxstyle": _ROUND.format(0.3), "fc": "#FFF0D6", "ec": "#B34700"},
    "step": {"boxstyle": "square,pad=0", "fc": "#FFFFFF", "ec": INK},
}
MEANING = {"network": "learns", "frozen": "frozen", "loss": "loss", "step": "no weights"}
XY = tuple[float, float]


class Place(NamedTuple):
    """Where something lies: its lower left corner and its size, in inches.

    Sides are points: the one at a share of the side's length, from the left or from below.
    """

    x: float
    y: float
    width: float
    height: float

    def left(self, share: float = 0.5) -> XY:
        return self.x, self.y + share * self.height

    def right(self, share: float = 0.5) -> XY:
        return self.x + self.width, self.y + share * self.height

    def top(self, share: float = 0.5) -> XY:
        return self.x + share * self.width, self.y + self.height

    def bottom(self, share: float = 0.5) -> XY:
        return self.x + share * self.width, self.y


def evenly(widths: Sequence[float], start: float = 0.15, end: float = BOARD_WIDTH - 0.15) -> list:
    """Centres of places of these widths that fill the line from start to end with equal gaps."""
    gap = (end - start - sum(widths)) / (len(widths) - 1)
    return [start + sum(widths[:i]) + gap * i + width / 2 for i, width in enumerate(widths)]


class Board:
    """A white figure, BOARD_WIDTH x height inches; (0, 0) is its lower left corner.

    alt: what it shows, for those who cannot see it. Places are given by their centre.
    """

    def __init__(self, height: float, alt: str):
        self.height = height
        self.figure: Figure = plt.figure(figsize=(BOARD_WIDTH, height))
        attach_words(self.figure)
        self.figure.alt = alt  # type: ignore[attr-defined]
        self.axis = self.figure.add_axes((0, 0, 1, 1))
        # Notebooks crop a figure to what is drawn: all boards stay equally wide.
        self.rectangle((0, 0), (BOARD_WIDTH, height), "white", ec="none", zorder=0)
        self._keep_inches()

    def _keep_inches(self) -> None:
        self.axis.set(xlim=(0, BOARD_WIDTH), ylim=(0, self.height), aspect="auto")
        self.axis.axis("off")

    def text(self, at: XY, words: str, size: float = SMALL, **more: Any) -> None:
        """Words around a point; more: matplotlib's keywords of texts."""
        style = {"ha": "center", "va": "center", "linespacing": 1.15, "color": INK, "zorder": 6}
        self.axis.text(*at, words, fontsize=size, **style | more)  # type: ignore[arg-type]

    def title(self, at: XY, words: str) -> None:
        """What a row is about, from a point to the right."""
        self.text(at, words, NORMAL, ha="left", va="baseline", weight="bold")

    def note(self, words: str) -> None:
        """What the drawing is made of, small, in the lower right corner."""
        self.text((BOARD_WIDTH - 0.15, 0.08), words, color=GREY, ha="right", va="bottom")

    def rectangle(self, corner: XY, area: XY, colour: str, **more: Any) -> Place:
        """A plain rectangle from its lower left corner, `area` wide and high."""
        style: dict[str, Any] = {"ec": INK, "lw": 0.8, "zorder": 3} | more
        self.axis.add_patch(Rectangle(corner, *area, fc=colour, **style))
        return Place(*corner, *area)

    def box(
        self, at: XY, words: str, kind: str = "step", area: XY = (0.95, 0.7), **more: Any
    ) -> Place:
        """A box of a kind, `area` wide and high, with words in it; more: `text`'s keywords."""
        place = Place(at[0] - area[0] / 2, at[1] - area[1] / 2, *area)
        style = BOX_KINDS[kind] | {"lw": LINE, "zorder": 4}
        if kind == "loss":  # no rounder than its ends allow
            style["boxstyle"] = _ROUND.format(min(0.3, area[1] / 2))
        self.axis.add_patch(FancyBboxPatch(place[:2], *area, **style))
        self.text(at, words, **{"size": NORMAL} | more)
        return place

    def tile(
        self, at: XY, pixels: np.ndarray, size: float = 0.95, words: str = "", above: bool = False
    ) -> Place:
        """A picture (H, W, 3), `size` inches wide, with words below or above it."""
        high = size * pixels.shape[0] / pixels.shape[1]
        place = Place(at[0] - size / 2, at[1] - high / 2, size, high)
        extent = (place.x, place.x + size, place.y, place.y + high)
        image = self.axis.imshow(pixels, extent=extent, interpolation="nearest", zorder=4)
        image.set_clip_on(False)
        self._keep_inches()
        self.rectangle(place[:2], (size, high), "none", zorder=5)
        self.caption(place, words, above)
        return place

    def caption(self, place: Place, words: str, above: bool = False) -> None:
        """Words below or above a place; beside each other, captions share their baselines."""
        lines, step = words.split("\n"), 0.17
        x, y = place.top() if above else place.bottom()
        first = y + 0.08 + step * (len(lines) - 1) if above else y - 0.18
        for i, line in enumerate(lines):
            if line:
                self.text((x, first - step * i), line, va="baseline")

    def stack(
        self, at: XY, several: Sequence, size: float = 0.75, words: str = "", above: bool = False
    ) -> Place:
        """Pictures (H, W, 3) one behind the other, the first in front, all of them one place."""
        step, last = 0.1, len(several) - 1
        whole = size + last * step
        place = Place(at[0] - whole / 2, at[1] - whole / 2, whole, whole)
        for i in range(last, -1, -1):
            corner = (place.x + i * step, place.y + i * step)
            extent = (corner[0], corner[0] + size, corner[1], corner[1] + size)
            depth = 4 - 0.1 * i
            self.axis.imshow(several[i], extent=extent, interpolation="nearest", zorder=depth)
            self.rectangle(corner, (size, size), "none", zorder=depth + 0.05)
        self._keep_inches()
        self.caption(place, words, above)
        return place

    def line(self, *points: XY) -> None:
        """A line through the points, from which arrows branch off."""
        x, y = zip(*points, strict=True)
        self.axis.plot(x, y, color=INK, lw=LINE, zorder=3.5, solid_joinstyle="miter")

    def arrow(self, *points: XY, colour: str = INK, **more: Any) -> None:
        """A line through the points that ends in a tip."""
        style: dict[str, Any] = {"arrowstyle": "-|>,head_length=5,head_width=2.6", "lw": LINE}
        style |= {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 1, "joinstyle": "miter"}
        path = Path(list(points))
        self.axis.add_patch(FancyArrowPatch(path=path, color=colour, zorder=2, **style | more))

    def chain(self, *places: Place, **more: Any) -> None:
        """Level arrows from each place to the next one on its right."""
        for a, b in zip(places, places[1:], strict=False):
            y = min((a, b), key=lambda place: place.height).left()[1]
            self.arrow((a.x + a.width, y), (b.x, y), **more)

    def bracket(self, start: float, end: float, y: float, words: str) -> None:
        """A line below several places that says what they share."""
        self.axis.plot([start, start, end, end], [y + 0.08, y, y, y + 0.08], color=GREY, lw=1)
        self.text(((start + end) / 2, y - 0.05), words, color=GREY, va="top", style="italic")

    def key(self, at: XY, *kinds: str) -> None:
        """Small boxes that say what kinds of boxes are, from a point to the right."""
        x, y = at
        for kind in kinds:
            style = BOX_KINDS[kind] | {"lw": 1, "zorder": 4}
            if kind != "step":
                style["boxstyle"] = _ROUND.format(0.075 if kind == "loss" else 0.04)
            self.axis.add_patch(FancyBboxPatch((x, y - 0.08), 0.28, 0.16, **style))
            self.text((x + 0.35, y), MEANING[kind], ha="left")
            x += 0.55 + 0.075 * len(MEANING[kind])
