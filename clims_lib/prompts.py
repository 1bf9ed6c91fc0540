"""What CLIMS says to CLIP: class texts, background texts, and both published forms of CBS.

The paper's template is "a photo of {class}". Class-related background texts name what co-occurs
with a class (paper, section 4.1); the thresholded variant has one shared list instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

TEMPLATE = "a photo of {}"


def with_article(noun: str) -> str:
    """'train' -> 'a train', 'aeroplane' -> 'an aeroplane'."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def class_texts(classes: Sequence[str], template: str = TEMPLATE) -> list[str]:
    """One text a class, e.g. "a photo of train" (paper: a photo of {class}). Raises ValueError
    when the template has no place for the class."""
    if "{}" not in template:
        raise ValueError(f"template {template!r} has no {{}} where the class name goes")
    return [template.format(name) for name in classes]


def background_texts(
    classes: Sequence[str],
    table: Mapping[str, Sequence[str]] | Sequence[str],
    template: str = TEMPLATE,
) -> list[list[str]]:
    """Background texts of every class: its own list from a table, or one shared list for all.

    Raises ValueError when the table names an unknown class or leaves one of `classes` out.
    """
    if not isinstance(table, Mapping):
        return [class_texts(table, template) for _ in classes]
    unknown, missing = set(table) - set(classes), set(classes) - set(table)
    if unknown or missing:
        raise ValueError(
            f"background texts: unknown classes {sorted(unknown)}, missing {sorted(missing)}"
        )
    return [class_texts(table[name], template) for name in classes]


def stack_ragged(rows: Sequence[Tensor]) -> Tensor:
    """[(L_k, D)] -> (K, max L_k, D), filled up with NaN, which the CBS loss leaves out."""
    longest = max(len(row) for row in rows)
    out = rows[0].new_full((len(rows), longest, rows[0].shape[-1]), float("nan"))
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.as_tensor(out)


def parse_background(lines: Sequence[str]) -> dict[str, list[str]] | list[str]:
    """["train: railroad, rails", ...] -> {"train": ["railroad", "rails"], ...}; one line without a
    class is the shared list of the thresholded form. Raises ValueError for an empty list."""
    if len(lines) == 1 and ":" not in lines[0]:
        return [text.strip() for text in lines[0].split(",")]
    table = {}
    for line in lines:
        name, colon, texts = line.partition(":")
        table[name.strip()] = [text.strip() for text in texts.split(",") if text.strip()]
        if not colon or not table[name.strip()]:
            raise ValueError(f"background texts look like 'train: railroad, rails', not {line!r}")
    return table
