"""What each choice of the published recipes does on MiniWorld: the table of ci/choices.py."""

from __future__ import annotations

from clims_lib.artifacts import read_json
from clims_lib.config import ROOT
from clims_lib.results.tables import headline_of, scores_of_row

PATH = ROOT / "data" / "results" / "mini_choices.json"


def read_choices() -> dict:
    """{"rows", "broken", "groups", "settings"}: a row's method is the choice that it was made by.

    groups: {what they have in common: [choice, ...]}, the first one `mini` as it is; settings:
    {choice: [override of `mini`, ...]}; broken: the trainings whose loss was no number.
    """
    return read_json(PATH)


def against_mini(choices: dict, measure: str = "miou") -> dict[str, list[float]]:
    """{choice: what it adds to `mini`, seed by seed}, points of per cent on the headline split.

    measure: "miou", a class (its IoU), or a leak, as "water->boat". Without what broke.
    """
    split, (usual, *others) = headline_of(choices["rows"]), choices["settings"]
    score = {
        (row["method"], row["seed"]): scores_of_row(row)[measure]
        for row in choices["rows"]
        if row["split"] == split
    }
    found = {
        name: [100 * (s - score[usual, seed]) for (n, seed), s in score.items() if n == name]
        for name in others
    }
    return {name: points for name, points in found.items() if points}
