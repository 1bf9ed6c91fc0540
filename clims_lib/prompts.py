"""What CLIMS says to CLIP: class texts, background texts, and both published forms of CBS.

The paper's template is "a photo of {class}"; the improved release ends it with a full stop.
Class-related background texts name what co-occurs with a class (paper, section 4.1); the
thresholded variant has one shared list instead. `WORDS` and `BACKGROUND` hold the releases' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clims_lib.config import did_you_mean

TEMPLATE = "a photo of {}"

# {class: what is said instead}; the camera-ready release says the data set's own names.
WORDS: dict[str, dict[str, str]] = {
    "data_set": {},
    "improved": {
        "diningtable": "dining table",
        "person": "player",
        "pottedplant": "potted plant",
        "tvmonitor": "tv monitor",
    },
}
# {class: texts}, the other classes without any; or one list for all.
BACKGROUND: dict[str, dict[str, list[str]] | list[str]] = {
    "camera_ready": {
        "boat": ["river", "water", "lake", "sea", "building"],
        "train": ["railroad", "railway", "branches", "tree"],
    },
    "improved": "tree river sea lake water railway railroad track stone rocks".split(),
}


def with_article(noun: str) -> str:
    """'train' -> 'a train', 'aeroplane' -> 'an aeroplane'."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def class_words(classes: Sequence[str], words: str = "data_set") -> list[str]:
    """What the classes are called, by one of WORDS. Raises ValueError for another name."""
    if words not in WORDS:
        raise ValueError(f"no class words {words!r}{did_you_mean(words, WORDS)}")
    return [WORDS[words].get(name, name) for name in classes]


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
    complete: bool = True,
) -> list[list[str]]:
    """Background texts of every class: its own list from a table, or one shared list for all.

    Raises ValueError when the table names an unknown class, or leaves one of `classes` out while
    it must be complete (camera-ready: only boat and train have texts, CBS is 0 for the others).
    """
    if not isinstance(table, Mapping):
        return [class_texts(table, template) for _ in classes]
    for name in sorted(set(table) - set(classes)):
        raise ValueError(
            f"background texts for the unknown class {name!r}{did_you_mean(name, classes)}"
        )
    missing = [name for name in classes if name not in table]
    if missing and complete:
        raise ValueError(
            f"background texts are missing for {', '.join(missing)}: give some, or let classes be "
            "without (losses.every_class=false)"
        )
    return [class_texts(table.get(name, ()), template) for name in classes]


def label_sentence(words: Sequence[str], template: str = TEMPLATE) -> str:
    """One text for all labels of a picture, as the camera-ready release finetunes CLIP.

    "background" without any; "a photo of bicycle, bus, and car"; of six, no comma before "and", as
    released. Raises ValueError for more, for which the release has no sentence.
    """
    if len(words) > 6:
        raise ValueError(f"the published sentences hold six labels at most, not {len(words)}")
    if not words:
        return "background"
    *others, last = words
    comma = "," if 3 <= len(words) <= 5 else ""
    together = f"{', '.join(others)}{comma} and {last}" if others else last
    return template.format(together)


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
