"""The table of choices: differences by hand, and settings that the profile takes."""

import sys

import choices
import pytest
import run_results
from choices import CHOICES, SETTINGS

from clims_lib.artifacts import read_json
from clims_lib.config import load_profile
from clims_lib.results.choices import PATH, against_mini, read_choices
from clims_lib.stages import measures


def row(method, seed, miou, leak, split="test"):
    return {
        "method": method,
        "seed": seed,
        "split": split,
        "miou": miou,
        "iou": {"train": miou / 2},
        "leak": {"water->boat": leak},
    }


def test_differences_are_taken_within_a_seed():
    choices = {
        "settings": {"usual": [], "other": ["a=1"], "broken": ["b=1"]},
        "rows": [
            row("usual", 0, 0.60, 0.1),
            row("usual", 1, 0.50, 0.2),
            row("other", 1, 0.51, 0.1),
            row("other", 0, 0.58, 0.4),
            row("other", 0, 0.99, 0.0, split="val"),
        ],
    }
    assert against_mini(choices)["other"] == pytest.approx([1.0, -2.0])
    assert against_mini(choices, "train")["other"] == pytest.approx([0.5, -1.0])
    assert against_mini(choices, "water->boat")["other"] == pytest.approx([-10.0, 30.0])
    assert "broken" not in against_mini(choices)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_choice_changes_the_profile(name):
    usual = load_profile("mini")
    assert (load_profile("mini", SETTINGS[name]) != usual) == bool(SETTINGS[name])


@pytest.mark.skipif(not PATH.is_file(), reason="not measured yet")
def test_the_committed_table_has_every_choice_and_seed():
    table = read_choices()
    assert table["settings"] == SETTINGS
    assert table["groups"] == {group: list(names) for group, names in CHOICES.items()}
    broken = {one["method"] for one in table["broken"]}
    assert {r["method"] for r in table["rows"]} | broken == set(SETTINGS)
    assert len({r["seed"] for r in table["rows"]}) >= 3


def test_a_training_that_breaks_is_told_and_the_others_are_in_the_table(monkeypatch, tmp_path):
    def here(tasks, jobs, title):  # in this process, where the fake below is known
        return {key: function(*given, 1) for key, (function, *given) in tasks.items()}

    def measure(profile, name):
        if profile.losses.clamped == () and profile.seed == 1:
            raise FloatingPointError("the loss is nan in step 3\nand more")
        return [row(name, profile.seed, 0.5, 0.1)]

    monkeypatch.setattr(run_results, "side_by_side", here)
    monkeypatch.setattr(measures, "measure", measure)
    monkeypatch.setattr(choices, "PATH", tmp_path / "table.json")
    monkeypatch.setattr(sys, "argv", ["choices.py", "--seeds", "0", "1"])
    assert choices.main() == 0
    table = read_json(tmp_path / "table.json")
    assert table["broken"] == [
        {"seed": 1, "method": "no clamp", "error": "the loss is nan in step 3"}
    ]
    measured = {(r["method"], r["seed"]) for r in table["rows"]}
    assert measured == {(n, s) for n in SETTINGS for s in (0, 1)} - {("no clamp", 1)}
