"""Numbers as HTML for the explorers: large ones, bars and tables that are the darker, the larger.

Colours are laid over whatever the page's own are, so that light and dark themes both work.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

BLUE, ORANGE = "0, 114, 178", "230, 159, 0"  # of plots.COLOURS
CELL = "padding: 0.2rem 0.6rem; text-align: right; font-variant-numeric: tabular-nums"


def heading(text: str) -> str:
    return f'<div style="line-height: 1.4; font-weight: 600">{html.escape(text)}</div>'


def message(text: str) -> str:
    """A sentence for somebody who typed what cannot be shown."""
    style = f"line-height: 1.5; padding: 0.5rem 0.75rem; border-left: 4px solid rgb({ORANGE})"
    return f'<div role="status" style="{style}">{html.escape(text)}</div>'


def per_cent(value: float) -> str:
    """0.4567 -> "45.7 %"; a dash for NaN, which is 0 of 0."""
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def cards(numbers: Mapping[str, str], note: str = "") -> str:
    """Numbers large enough for the last row, each over its name; a note in small print."""
    big = "font-size: 1.7rem; line-height: 1.25; font-variant-numeric: tabular-nums"
    parts = [
        f'<div style="min-width: 8rem"><div style="{big}">{html.escape(value)}</div>'
        f'<div style="line-height: 1.3">{html.escape(name)}</div></div>'
        for name, value in numbers.items()
    ]
    return (
        f'<div style="display: flex; flex-wrap: wrap; gap: 0.5rem 2rem">{"".join(parts)}</div>'
        + small(note)
    )


def small(note: str) -> str:
    style = "line-height: 1.4; opacity: 0.75; padding-top: 0.35rem"
    return f'<div style="{style}">{html.escape(note)}</div>' if note else ""


def bar_table(values: Mapping[str, float], most: float, title: str) -> str:
    """A horizontal bar a number, from 0 to `most`; the last one, a sum, in another colour."""
    rows = []
    for n, (name, value) in enumerate(values.items()):
        colour = ORANGE if n == len(values) - 1 else BLUE
        width = 100 * min(1.0, max(0.0, value / most))
        bar = f'<div style="width: {width:.1f}%; height: 1rem; background: rgb({colour})"></div>'
        rows.append(
            f'<tr><th scope="row" style="text-align: left; font-weight: normal; '
            f'white-space: nowrap">{html.escape(name)}</th>'
            f'<td style="width: 100%; padding: 0 0.6rem">{bar}</td>'
            f'<td style="{CELL}">{value:.2f}</td></tr>'
        )
    return _table(title, rows, "width: 100%")


def shaded_table(
    values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], title: str
) -> str:
    """A table of numbers, each column shaded from its own smallest to its own largest."""
    shades = list(zip(*(_shades(column) for column in zip(*values, strict=True)), strict=True))
    head = "".join(f'<th scope="col" style="{CELL}">{html.escape(name)}</th>' for name in columns)
    lines = [f"<tr><td></td>{head}</tr>"]
    for name, line, shade in zip(rows, values, shades, strict=True):
        cells = "".join(
            f'<td style="{CELL}; background: rgba({BLUE}, {dark:.2f})">{value:.2f}</td>'
            for value, dark in zip(line, shade, strict=True)
        )
        lines.append(
            f'<tr><th scope="row" style="text-align: left; font-weight: normal; '
            f'padding-right: 0.6rem">{html.escape(name)}</th>{cells}</tr>'
        )
    return _table(title, lines)


def in_columns(*parts: str) -> str:
    style = "display: grid; grid-template-columns: repeat(auto-fit, minmax(22rem, 1fr)); gap: 2rem"
    return f'<div style="{style}">{"".join(f"<div>{part}</div>" for part in parts)}</div>'


def _shades(column: Sequence[float]) -> list[float]:
    low, span = min(column), max(column) - min(column)
    return [0.5 * (value - low) / span if span else 0.0 for value in column]


def _table(title: str, rows: Sequence[str], style: str = "") -> str:
    head = (
        "text-align: left; font-weight: 600; padding-bottom: 0.2rem; caption-side: top; "
        "white-space: nowrap"
    )
    return (
        f'<table style="border-collapse: collapse; line-height: 1.4; {style}">'
        f'<caption style="{head}">{html.escape(title)}</caption>{"".join(rows)}</table>'
    )
