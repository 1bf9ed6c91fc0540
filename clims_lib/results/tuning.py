"""What was tried for each method, on which pictures, and chosen: data/results/*_tuning.json.

Made by `ci/tuning`: {"tried": {row: [{"settings", "split", "seed", "miou"}]}, "chosen": {row:
settings}}.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clims_lib.artifacts import read_json
from clims_lib.config import ROOT, Profile
from clims_lib.results.text import text_table

Settings = Mapping[str, float]


def tuning_path(profile: Profile) -> Path:
    """The file of a profile's trials."""
    return ROOT / "data" / "results" / f"{profile.name}_tuning.json"


def read_tuning(profile: Profile) -> dict[str, Any]:
    """What was tried and chosen; nothing where nothing was."""
    path = tuning_path(profile)
    return read_json(path) if path.is_file() else {"tried": {}, "chosen": {}}


def best_of(trials: Iterable[dict]) -> dict[str, float]:
    """The settings of the trial with the highest mIoU, the first of equal ones."""
    return max(trials, key=lambda trial: trial["miou"])["settings"]


def at_the_end(trials: Iterable[dict]) -> list[str]:
    """The settings whose best value is the lowest or the highest that was tried: try further."""
    trials = list(trials)
    best, found = best_of(trials), []
    for name, value in best.items():
        tried = {trial["settings"][name] for trial in trials}
        if len(tried) > 1 and value in (min(tried), max(tried)):
            found.append(name)
    return found


def tuning_table(tuning: Mapping[str, Any]) -> str:
    """A text table: of each row and setting the values that were tried, each with the best mIoU of
    its trials in per cent; how many runs there were, on which split and seed.

    The chosen value stands in brackets, with a "!" where it is at an end of what was tried.
    """
    lines: list[tuple[str, ...]] = [("row", "setting", "value: mIoU", "runs", "on")]
    for row, trials in tuning["tried"].items():
        best, ends = best_of(trials), at_the_end(trials)
        where = ", ".join(dict.fromkeys(f"{t['split']}, seed {t['seed']}" for t in trials))
        for i, name in enumerate(best):
            said = [
                f"{value:g}: {score}"
                if value != best[name]
                else f"[{value:g}: {score}]{'!' * (name in ends)}"
                for value, score in _alone(trials, name).items()
            ]
            runs = (str(len(trials)), where) if i == 0 else ("", "")
            lines.append((row if i == 0 else "", name, "  ".join(said), *runs))
    return text_table(lines)


def _alone(trials: list[dict], name: str) -> dict[float, str]:
    """{value of a setting: its best mIoU in per cent}, rising."""
    best: dict[float, float] = {}
    for trial in trials:
        value = trial["settings"][name]
        best[value] = max(best.get(value, 0.0), trial["miou"])
    return {value: f"{100 * best[value]:.1f}" for value in sorted(best)}
