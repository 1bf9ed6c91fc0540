"""Charts of numbers. Wherever names of methods stand, each has its colour of `METHOD_COLOURS`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from clims_lib.plots.colours import COLOURS, colours_of
from clims_lib.plots.pictures import SIGNED

MARKERS = "osv^Dx+*"


def bars(
    groups: Mapping[str, Mapping[str, float]], ylabel: str, ylim: tuple[float, float] | None = None
) -> Figure:
    """Grouped bars: {series: {name on the axis: value}}; missing or None values leave a gap."""
    names = list(dict.fromkeys(n for values in groups.values() for n in values))
    figure, axis = plt.subplots(figsize=(11, 3.4), layout="constrained")
    width = 0.8 / len(groups)
    colours = colours_of(groups)
    for i, (series, values) in enumerate(groups.items()):
        heights = [np.nan if values.get(n) is None else values[n] for n in names]
        places = np.arange(len(names)) + (i - (len(groups) - 1) / 2) * width
        axis.bar(places, heights, width, label=series, color=colours[i], edgecolor="white")
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
    for i, ((label, (x, y)), colour) in enumerate(
        zip(lines.items(), colours_of(lines), strict=True)
    ):
        axis.plot(x, y, label=label, color=colour, marker=MARKERS[i % 8], markersize=4)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.grid(alpha=0.3)
    return figure


def spreads(
    lines: Mapping[str, Mapping[float | str, Sequence]], xlabel: str, ylabel: str
) -> Figure:
    """Means with bars of their spreads: {label: {x: (mean, spread)}}; texts x are categories.

    A third number says over how many seeds. One seed, also known by a spread of 0, None or NaN, has
    no spread to show: a hollow dot without bar, and "1 seed" in words. Later bars are thinner and
    wider at their ends, so that none hides another.
    """
    figure, axis = plt.subplots(figsize=(10, 3.6), layout="constrained")
    for i, ((label, line), colour) in enumerate(zip(lines.items(), colours_of(lines), strict=True)):
        x = [fill(value, 30) if isinstance(value, str) else value for value in line]
        means = [float(value[0]) for value in line.values()]
        errors = [_spread_of(value) for value in line.values()]
        single = [math.isnan(error) for error in errors]
        marker = MARKERS[i % 8]
        axis.errorbar(
            x,
            means,
            errors,
            label=fill(f"{label} (1 seed)" if all(single) else label, 40),
            color=colour,
            marker=marker,
            markersize=5,
            elinewidth=max(1, 7 - 3 * i),
            capsize=3 + 2 * i,
        )
        for at, mean, alone in zip(x, means, single, strict=True):
            if alone:
                axis.plot(at, mean, marker, color=colour, markerfacecolor="white", zorder=4)
            if alone and not all(single):
                axis.annotate(
                    "1 seed",
                    (at, mean),
                    (0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                )
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.grid(alpha=0.3)
    return figure


def _spread_of(value: Sequence) -> float:
    """The spread of (mean, spread) or (mean, spread, seeds); NaN where it is of one seed."""
    spread = math.nan if value[1] is None else float(value[1])
    several = value[2] > 1 if len(value) > 2 else spread > 0
    return spread if several else math.nan


def ranked(values: Mapping[str, Sequence], xlabel: str) -> Figure:
    """Horizontal bars of {name: (mean, spread)} in the order given, the number beside each.

    Spreads as in `spreads`: one seed has no error bar but the words "1 seed".
    """
    figure, axis = plt.subplots(figsize=(10, 0.6 + 0.3 * len(values)), layout="constrained")
    means = [float(value[0]) for value in values.values()]
    errors = [_spread_of(value) for value in values.values()]
    colours = colours_of(values, [COLOURS[5]])
    axis.barh(
        list(values),
        means,
        xerr=errors,
        color=colours,
        edgecolor="#595959",  # the palest are seen, too
        linewidth=0.5,
        ecolor="#404040",
        capsize=3,
    )
    for i, (mean, error) in enumerate(zip(means, errors, strict=True)):
        alone = math.isnan(error)
        words = f"  {mean:.1f} (1 seed)" if alone else f"  {mean:.1f}"
        axis.text(mean + (0 if alone else error), i, words, va="center", fontsize=9)
    axis.set_xlabel(xlabel)
    axis.spines[["top", "right"]].set_visible(False)
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


def heat_table(
    values: ArrayLike,
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    title: str = "",
    form: str = ".2f",
) -> Figure:
    """A table of numbers whose cells are the darker, the larger the number; NaN stays empty.

    Where some are negative, purple is below 0, orange above, and 0 is white.
    """
    values = np.asarray(values, dtype=float)
    form = f"+z{form[1:]}" if form.startswith("+") else f"z{form}"  # no "-0.0"
    rows, columns = values.shape
    figure, axis = plt.subplots(
        figsize=(min(11, 3 + 1.2 * columns), 0.8 + 0.36 * rows), layout="constrained"
    )
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < 0:
        low, high = -max(-low, high), max(-low, high)
    high = high if high > low else low + 1
    paint, scale = plt.get_cmap(SIGNED if low < 0 else "Blues"), Normalize(low, high)
    image = axis.imshow(values, cmap=paint, norm=scale, aspect="auto")
    for r, c in np.argwhere(np.isfinite(values)):
        dark = np.dot(paint(scale(values[r, c]))[:3], (0.3, 0.59, 0.11)) < 0.5
        words = format(values[r, c], form)
        axis.text(c, r, words, ha="center", va="center", color="white" if dark else "black")
    axis.set_xticks(range(columns), column_titles)
    axis.set_yticks(range(rows), row_titles)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(title, fontsize=10)
    bar = figure.colorbar(
        image, ax=axis, fraction=0.03, pad=0.02, ticks=[low, (low + high) / 2, high]
    )
    bar.ax.set_yticklabels([format(n, form) for n in (low, (low + high) / 2, high)])
    return figure


def points(x: ArrayLike, y: ArrayLike, xlabel: str, ylabel: str) -> Figure:
    """A scatter of (x, y) with a line at y = 0."""
    figure, axis = plt.subplots(figsize=(10, 3.6), layout="constrained")
    axis.axhline(0, color="#404040", linewidth=1)
    axis.scatter(np.asarray(x), np.asarray(y), s=18, alpha=0.7, color=COLOURS[0])
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
