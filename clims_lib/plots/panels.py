"""Pictures side by side, none too small to see, with a colour bar where they show numbers."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from clims_lib.plots.colours import shown_palette
from clims_lib.plots.pictures import HEAT, SIGNED, Scale, shaded

PAGE = 11.0  # inches that a figure is wide
SMALLEST = 1.05  # inches a panel with its gap: at least 90 pixels at 100 dots an inch
BESIDE = 0.9  # inches for row titles and a colour bar
LETTER = 0.08  # inches that a letter of a title is wide, about


def gallery(images: Sequence, titles: Sequence[str] = (), columns: int = 6) -> Figure:
    """Pictures (H, W, 3), or numbers (H, W), side by side, with a title each where given.

    columns: at most so many in a row; fewer where panels would be too small to see.
    """
    cells = _shaded_alike(list(images))
    columns = min(columns, _most(cells))
    rows, wide = -(-len(cells) // columns), PAGE / columns
    names = [_wrapped(title, wide) for title in titles]
    high = wide * _tallest(cells) + 0.17 * _lines(names)
    figure, axes = plt.subplots(
        rows, columns, figsize=(PAGE, high * rows + 0.1), squeeze=False, layout="constrained"
    )
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(cells):
            _show(axis, cells[i])
            if i < len(names):
                axis.set_title(names[i], fontsize=9)
    _add_bars(figure, axes, cells)
    return figure


def grid(
    rows: Sequence[Sequence], row_titles: Sequence[str], column_titles: Sequence[str] = ()
) -> Figure:
    """A table of pictures: one method a row, one picture a column.

    More columns than can be seen side by side go on below, with the same row titles.
    """
    cells = _shaded_alike([cell for row in rows for cell in row])
    several = -(-len(rows[0]) // _most(cells))
    columns = -(-len(rows[0]) // several)
    wide = PAGE / columns
    names = [_wrapped(title, wide) for title in column_titles]
    high = several * (len(rows) * wide * _tallest(cells) + 0.17 * _lines(names))
    figure, axes = plt.subplots(
        several * len(rows), columns, figsize=(PAGE, high), squeeze=False, layout="constrained"
    )
    left = iter(cells)
    for r, row in enumerate(rows):
        shown = [next(left) for _ in row]
        for part in range(several):
            here = slice(part * columns, (part + 1) * columns)
            line = axes[part * len(rows) + r]
            _draw_line(line, shown[here], names[here] if r == 0 else [])
            line[0].set_ylabel(_wrapped(row_titles[r], wide), fontsize=10)
    _add_bars(figure, axes, cells)
    return figure


def _draw_line(line: np.ndarray, cells: Sequence, names: Sequence[str]) -> None:
    for i, axis in enumerate(line):
        axis.set(xticks=[], yticks=[])
        if i < len(cells):
            _show(axis, cells[i])
        else:
            axis.axis("off")
        if i < len(names):
            axis.set_title(names[i], fontsize=9)


def _show(axis: Axes, cell: np.ndarray) -> None:
    """Small pictures with their pixels as they are; large ones shrink without losing thin lines."""
    axis.imshow(cell, interpolation="nearest" if max(cell.shape[:2]) < 200 else "auto")


def _shaded_alike(cells: list) -> list:
    """Numbers (H, W) as pictures on one scale, from the least to the largest of all of them."""
    arrays = [np.asanyarray(cell) for cell in cells]
    numbers = [a for a in arrays if a.ndim == 2]
    if not numbers:
        return arrays
    low, high = min(float(a.min()) for a in numbers), max(float(a.max()) for a in numbers)
    scale = Scale(HEAT, low, high if high > low else low + 1)
    paint = ScalarMappable(Normalize(scale.low, scale.high), HEAT)
    return [shaded(paint.to_rgba(a)[..., :3], scale) if a.ndim == 2 else a for a in arrays]


def _most(cells: list) -> int:
    """How many panels side by side have no side below SMALLEST; strips may be flatter."""
    flattest = min((cell.shape[0] / cell.shape[1] for cell in cells), default=1.0)
    return int((PAGE - BESIDE) / SMALLEST * min(1.0, max(flattest, 0.5)))


def _tallest(cells: list) -> float:
    """Height over width of the tallest picture, so that the narrowest is as wide as its cell."""
    return max((cell.shape[0] / cell.shape[1] for cell in cells), default=1.0)


def _wrapped(title: str, inches: float) -> str:
    """A title on lines that its panel is wide enough for; its own lines stay."""
    return "\n".join(fill(line, max(8, int(inches / LETTER))) for line in title.split("\n"))


def _lines(names: list[str]) -> int:
    return max((name.count("\n") + 1 for name in names), default=0)


def _add_bars(figure: Figure, axes: np.ndarray, cells: list) -> None:
    """A colour bar for each kind of numbers that the pictures show.

    Pictures of one kind with ends of their own share a bar that says - 0 + in place of numbers.
    """
    scales = {scale for cell in cells if (scale := getattr(cell, "scale", None))}
    for colours in (HEAT, SIGNED):
        some = [scale for scale in scales if scale.colours == colours]
        if some:
            low, high = some[0].low, some[0].high
            bar = figure.colorbar(
                ScalarMappable(Normalize(low, high), colours),
                ax=axes,
                fraction=0.02,
                pad=0.01,
                aspect=30,
                ticks=[low, (low + high) / 2, high],
            )
            alike = len(some) == 1
            ends = [f"{n:.3g}" for n in (low, (low + high) / 2, high)] if alike else ["−", "0", "+"]
            bar.ax.set_yticklabels(ends, fontsize=9)


def legend_of(classes: Sequence[str]) -> Figure:
    """The colours of the classes 1..K in shown masks, as a strip of up to seven a line."""
    lines = -(-len(classes) // 7)
    figure: Figure
    axis: Axes
    figure, axis = plt.subplots(figsize=(PAGE, 0.25 + 0.25 * lines))
    colours = shown_palette() / 255
    patches = [
        Patch(facecolor=colours[k], edgecolor="black", linewidth=0.5, label=name)
        for k, name in enumerate(classes, 1)
    ]
    axis.legend(handles=patches, ncols=-(-len(patches) // lines), loc="center", frameon=False)
    axis.axis("off")
    return figure
