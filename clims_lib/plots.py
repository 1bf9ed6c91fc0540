"""Pictures for people: arrays in, a matplotlib Figure out.

Masks have the VOC palette, other colours are the Okabe-Ito ones that colour-blind readers tell
apart. No function here computes a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from numpy.typing import ArrayLike

from clims_lib.labels import palette

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")


def picture(image: ArrayLike) -> np.ndarray:
    """uint8 (3, H, W) or float in [0, 1] -> (H, W, 3) for imshow."""
    pixels = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ValueError(f"a picture is (3, H, W), not {pixels.shape}")
    pixels = pixels.transpose(1, 2, 0)
    return pixels if pixels.dtype == np.uint8 else pixels.clip(0, 1)


def coloured(mask: ArrayLike) -> np.ndarray:
    """uint8 (H, W) -> (H, W, 3) in VOC's colours; 255 (ignore) is VOC's cream."""
    return palette()[np.asarray(mask)]


def overlay(image: ArrayLike, mask: ArrayLike, opacity: float = 0.6) -> np.ndarray:
    """The picture with its mask laid over it where there is an object."""
    pixels = picture(image)
    pixels = pixels if pixels.dtype == np.uint8 else (255 * pixels).astype(np.uint8)
    where = (np.asarray(mask) > 0)[..., None] * opacity
    return (pixels * (1 - where) + coloured(mask) * where).astype(np.uint8)


def gallery(images: Sequence, titles: Sequence[str] = (), columns: int = 6) -> Figure:
    """Pictures (H, W, 3) or (H, W) side by side, with a title each where given."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(11, 11 / columns * rows * 1.12), squeeze=False, layout="constrained"
    )
    for i, axis in enumerate(axes.flat):
        axis.axis("off")
        if i < len(images):
            axis.imshow(images[i], interpolation="nearest", cmap="viridis")
            if i < len(titles):
                axis.set_title(titles[i], fontsize=8, wrap=True)
    return figure


def grid(
    rows: Sequence[Sequence], row_titles: Sequence[str], column_titles: Sequence[str] = ()
) -> Figure:
    """A table of pictures: one method a row, one picture a column."""
    count = len(rows[0])
    figure, axes = plt.subplots(
        len(rows), count, figsize=(11, 11 / count * len(rows)), squeeze=False, layout="constrained"
    )
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            axes[r, c].imshow(cell, interpolation="nearest", cmap="viridis")
            axes[r, c].set(xticks=[], yticks=[])
        axes[r, 0].set_ylabel(row_titles[r], fontsize=10)
    for c, title in enumerate(column_titles):
        axes[0, c].set_title(title, fontsize=9)
    return figure


def legend_of(classes: Sequence[str]) -> Figure:
    """The VOC colours of the classes 1..K, as a strip."""
    figure, axis = plt.subplots(figsize=(11, 0.5))
    patches = [Patch(color=palette()[k + 1] / 255, label=n) for k, n in enumerate(classes)]
    axis.legend(handles=patches, ncols=len(patches), loc="center", frameon=False)
    axis.axis("off")
    return figure


def bars(
    groups: Mapping[str, Mapping[str, float]], ylabel: str, ylim: tuple[float, float] | None = None
) -> Figure:
    """Grouped bars: {series: {name on the axis: value}}; missing or None values leave a gap."""
    names = list(dict.fromkeys(n for values in groups.values() for n in values))
    figure, axis = plt.subplots(figsize=(11, 3.4), layout="constrained")
    width = 0.8 / len(groups)
    for i, (series, values) in enumerate(groups.items()):
        heights = [np.nan if values.get(n) is None else values[n] for n in names]
        axis.bar(
            np.arange(len(names)) + (i - (len(groups) - 1) / 2) * width,
            heights,
            width,
            label=series,
            color=COLOURS[i % len(COLOURS)],
        )
    axis.set_xticks(range(len(names)), names)
    axis.set(ylabel=ylabel, ylim=ylim)
    axis.legend(
        ncols=min(7, len(groups)), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False
    )
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def curves(lines: Mapping[str, tuple[Sequence, Sequence]], xlabel: str, ylabel: str) -> Figure:
    """Labelled curves: {label: (x, y)}, each with a marker of its own."""
    figure, axis = plt.subplots(figsize=(10, 3.6), layout="constrained")
    for i, (label, (x, y)) in enumerate(lines.items()):
        axis.plot(
            x,
            y,
            label=label,
            color=COLOURS[i % len(COLOURS)],
            marker="osv^Dx+*"[i % 8],
            markersize=4,
        )
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.grid(alpha=0.3)
    return figure


def spreads(
    lines: Mapping[str, Mapping[float | str, tuple[float, float]]], xlabel: str, ylabel: str
) -> Figure:
    """Means with bars of their spreads: {label: {x: (mean, spread)}}; texts x are categories.

    Later bars are thinner and wider at their ends, so that none hides another.
    """
    figure, axis = plt.subplots(figsize=(10, 3.6), layout="constrained")
    for i, (label, line) in enumerate(lines.items()):
        means, errors = zip(*line.values(), strict=True)
        x = [fill(value, 30) if isinstance(value, str) else value for value in line]
        axis.errorbar(
            x,
            means,
            errors,
            label=fill(label, 40),
            color=COLOURS[i % len(COLOURS)],
            marker="osv^Dx+*"[i % 8],
            markersize=5,
            elinewidth=max(1, 7 - 3 * i),
            capsize=3 + 2 * i,
        )
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.grid(alpha=0.3)
    return figure


def oracle_chart(rows: Sequence[Mapping]) -> Figure:
    """Loss at every candidate mask, one panel a class; the lowest is blue, the others grey."""
    classes = list(dict.fromkeys(row["class"] for row in rows))
    columns = min(3, len(classes))
    lines = -(-len(classes) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(11, 2.6 * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(classes) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, classes, strict=False):
        some = [row for row in rows if row["class"] == name]
        values = [row["loss"] for row in some]
        lowest = int(np.argmin(values))
        colours = [COLOURS[0] if i == lowest else "#B0B0B0" for i in range(len(some))]
        axis.barh([row["mask"] for row in some], values, color=colours)
        axis.invert_yaxis()
        axis.set_title(f"{name}: lowest at {some[lowest]['mask']}", fontsize=10)
        axis.set_xlabel("CLIMS loss")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def signed(values: ArrayLike, limit: float | None = None) -> np.ndarray:
    """(H, W) numbers -> (H, W, 3): purple below 0, orange above, white at 0 (colour-blind safe)."""
    values = np.asarray(values, dtype=float)
    limit = limit or max(np.abs(values).max(), 1e-12)
    return plt.get_cmap("PuOr_r")(values / (2 * limit) + 0.5)[..., :3]


def map_over(image: ArrayLike, cam: ArrayLike, opacity: float = 0.6) -> np.ndarray:
    """A map (H, W) in [0, 1] over its picture: the brighter, the more active."""
    pixels = picture(image)
    pixels = pixels / 255 if pixels.dtype == np.uint8 else pixels
    return (1 - opacity) * pixels + opacity * plt.get_cmap("viridis")(np.asarray(cam))[..., :3]


def heat_table(
    values: ArrayLike,
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    title: str = "",
    form: str = ".2f",
) -> Figure:
    """A table of numbers whose cells are the darker, the larger the number; NaN stays empty.

    With a `form` that has a sign ("+.1f") the numbers are differences: one colour above 0, another
    below, the darker, the further from it.
    """
    values = np.asarray(values, dtype=float)
    rows, columns = values.shape
    figure, axis = plt.subplots(
        figsize=(min(11, 2.5 + 1.2 * columns), 0.8 + 0.36 * rows), layout="constrained"
    )
    low, high, colours = np.nanmin(values), np.nanmax(values), "Blues"
    if form.startswith("+"):
        high, colours = np.nanmax(np.abs(values)), "PuOr_r"
        low = -high
    axis.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    for r, c in np.argwhere(np.isfinite(values)):
        share = (values[r, c] - low) / ((high - low) or 1)
        dark = share > 0.6 if colours == "Blues" else abs(share - 0.5) > 0.35
        axis.text(
            c,
            r,
            format(values[r, c], form.replace("+", "+z") if "+" in form else f"z{form}"),
            ha="center",
            va="center",
            color="white" if dark else "black",
        )
    axis.set_xticks(range(columns), column_titles)
    axis.set_yticks(range(rows), row_titles)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(title, fontsize=10)
    return figure


def ranked(values: Mapping[str, tuple[float, float]], xlabel: str) -> Figure:
    """Horizontal bars of {name: (mean, spread)} in the order given, the number beside each."""
    figure, axis = plt.subplots(figsize=(10, 0.6 + 0.3 * len(values)), layout="constrained")
    means, spreads = zip(*values.values(), strict=True)
    axis.barh(list(values), means, xerr=spreads, color=COLOURS[5], ecolor="#404040", capsize=3)
    for i, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        axis.text(mean + spread, i, f"  {mean:.1f}", va="center", fontsize=9)
    axis.set_xlabel(xlabel)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def heatmap(values: ArrayLike) -> np.ndarray:
    """(H, W) numbers in [0, 1] -> (H, W, 3): dark to bright, one scale for all pictures."""
    return plt.get_cmap("viridis")(np.clip(np.asarray(values, dtype=float), 0, 1))[..., :3]


def points(x: ArrayLike, y: ArrayLike, xlabel: str, ylabel: str) -> Figure:
    """A scatter of (x, y) with a line at y = 0."""
    figure, axis = plt.subplots(figsize=(10, 3.6), layout="constrained")
    axis.axhline(0, color="#404040", linewidth=1)
    axis.scatter(np.asarray(x), np.asarray(y), s=18, alpha=0.7, color=COLOURS[0])
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def set_up() -> None:
    """Let every figure of pyplot from now on, also one not made here, tell what it shows.

    The words are those written in the figure. Jupyter keeps them beside the picture as
    `metadata["image/png"]["alt"]`, where nbconvert, `ci/book` and screen readers look.
    """
    plt.rcParams["figure.hooks"] = [f"{__name__}:{attach_words.__name__}"]


def attach_words(figure: Figure) -> None:
    """Let a figure hand its words to Jupyter; a hook that pyplot calls with every new figure."""
    # IPython adds the picture itself to what this returns.

    def words(**_: object) -> tuple[dict, dict]:
        return {}, {"image/png": {"alt": describe(figure)}}

    figure._repr_mimebundle_ = words  # type: ignore[attr-defined]


def describe(figure: Figure) -> str:
    """Return the figure's `alt` where somebody wrote one (`report.save_figure` does), else what
    its titles, axes and legends say, and how many pictures it has; "" if nothing."""
    if alt := getattr(figure, "alt", ""):
        return alt
    figure.draw_without_rendering()  # names at ticks are not there before
    pictures = sum(len(axis.images) for axis in figure.axes)
    parts = [f"{pictures} pictures"] if pictures > 1 else []  # one may be a table
    parts += [" ".join(text.get_text().split()) for text in figure.findobj(Text)]
    # numbers at ticks say nothing without the lines beside them
    return "; ".join(dict.fromkeys(p for p in parts if any(map(str.isalpha, p)) and p[0] != "$"))
