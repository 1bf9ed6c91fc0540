"""Sentences about trained numbers, quoted from the committed table so that they cannot go stale.

    say(profile, "CLIMS reaches {clims}, CAM {cam}; with its CRF it is {clims_crf-clims?above|no
        different from|below} that.")

`{row}` is the row's mIoU, `{row:measure}` a class's IoU or a leak rate, `{clip:person}` zero-shot
accuracy, `{row-other}` the mean of the differences within each seed: "64.2 ± 0.2", per cent, mean ±
sample standard deviation over seeds. `{...?more|undecided|less}` is the one of three wordings that
the difference bears out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from clims_lib.config import Profile, did_you_mean, load_profile
from clims_lib.results.tables import (
    committed_results,
    headline_of,
    mean_per_cent,
    mean_spread,
    scores_of_row,
)
from clims_lib.results.verdicts import combined_error, verdict

_PLACE = re.compile(r"\{(?P<row>\w+)(?:-(?P<other>\w+))?(?::(?P<measure>[^}?]+))?"
                    r"(?:\?(?P<words>[^}]*))?\}")  # fmt: skip
NOT_HERE = "*Of MiniWorld, as this profile has no such rows committed:* "


def say(profile: Profile, text: str) -> object:
    """The text with its places filled in, as Markdown to be shown by a cell.

    Where the profile has no committed table, or one without these rows, MiniWorld's is quoted, and
    the text says so. Raises ValueError for what that lacks as well, naming the nearest.
    """
    from IPython.display import Markdown  # only notebooks say anything

    results = committed_results(profile)
    methods = {row["method"] for row in results.get("rows", [])}
    zero_shot = {entry["model"] for entry in results.get("zero_shot", [])}
    asked = {name for p in _PLACE.finditer(text) for name in (p["row"], p["other"]) if name}
    if asked <= methods | zero_shot:
        return Markdown(filled(text, results))
    return Markdown(NOT_HERE + filled(text, committed_results(load_profile("mini"))))


def filled(text: str, results: dict, split: str = "") -> str:
    """The text with every place taken from results.json's form, of one split, by default the
    headline's."""
    split = split or headline_of(results["rows"])
    scores: dict[str, dict[int, dict]] = {}
    for row in results["rows"]:
        if row["split"] == split:
            scores.setdefault(row["method"], {})[row["seed"]] = scores_of_row(row)
    for entry in results.get("zero_shot", []):
        if entry["split"] == split:
            scores.setdefault(entry["model"], {})[entry["seed"]] = entry["accuracy"]

    def fill(place: re.Match) -> str:
        values = _values(scores, place["row"], place["other"], place["measure"] or "miou")
        if place["words"] is not None:
            words = place["words"].split("|")
            if len(words) != 3:
                raise ValueError(f"{place[0]} needs three wordings: more|undecided|less")
            return words[("more", "undecided", "less").index(direction(values))]
        sign = "+" if place["other"] and sum(values) >= 0 else ""
        return sign + mean_per_cent(mean_spread(values))

    return _PLACE.sub(fill, text)


def direction(values: Iterable[float]) -> str:
    """ "more", "less", or "undecided": the verdict on seeds' differences being above 0."""
    mean, spread, seeds = mean_spread(list(values))
    found = verdict(mean, combined_error(spread, seeds, of_pictures=0.0), goal=0.0)
    return {"met": "more", "not met": "less"}.get(found, found)


def _values(
    scores: dict[str, dict[int, dict]], row: str, other: str | None, measure: str
) -> list[float]:
    """The measure of a row, or its differences to another's, seed by seed."""
    for name in (row, other):
        if name is not None and name not in scores:
            raise ValueError(f"no committed row {name!r}{did_you_mean(name, scores)}")
    known = next(iter(scores[row].values()))
    if measure not in known:
        raise ValueError(f"no measure {measure!r}{did_you_mean(measure, known)}")
    if other is None:
        return [found[measure] for found in scores[row].values()]
    return [s[measure] - scores[other][k][measure] for k, s in scores[row].items()
            if k in scores[other]]  # fmt: skip
