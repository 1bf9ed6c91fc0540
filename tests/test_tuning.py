"""What is tried for each method: every grid, on val, and whether its best value lies inside."""

import pytest
import tuning
from everything import CORPORA, corpus_settings
from tuning import GRIDS, trial, trials

from clims_lib.__main__ import main
from clims_lib.artifacts import read_json
from clims_lib.config import load_profile
from clims_lib.results import tuning as results_tuning
from clims_lib.results.tuning import at_the_end, best_of, read_tuning, tuning_table


def tried(miou, **settings):
    named = {name.replace("_", ".", 1): value for name, value in settings.items()}
    return {"settings": named, "split": "val", "seed": 0, "miou": miou}


PUZZLE = [
    tried(0.34, puzzle_alpha=0.1),
    tried(0.30, puzzle_alpha=4.0),
    tried(0.36, puzzle_alpha=0.03),
    tried(0.33, puzzle_alpha=0.01),
]


def test_the_best_is_chosen_and_its_place_is_told():
    assert best_of(PUZZLE) == {"puzzle.alpha": 0.03} and at_the_end(PUZZLE) == []
    assert at_the_end(PUZZLE[:3]) == ["puzzle.alpha"]  # nothing lower was tried
    assert at_the_end(PUZZLE[:1]) == []  # one value is no grid
    lines = tuning_table({"tried": {"puzzle_cam": PUZZLE, "again": PUZZLE[:3]}}).splitlines()
    assert lines[2].split() == (
        "puzzle_cam puzzle.alpha 0.01: 33.0 [0.03: 36.0] 0.1: 34.0 4: 30.0 4 val, seed 0".split()
    )
    assert "[0.03: 36.0]!" in lines[3]


def test_every_row_has_its_own_values_and_one_moves_at_a_time():
    for row, grid in GRIDS.items():
        planned = trials("mini", row)
        assert all(set(settings) == set(grid) for settings in planned)
        profile = load_profile("mini", [f"{k}={v}" for k, v in planned[0].items()])
        assert profile == load_profile("mini")  # the first is the profile's own
        for settings in planned[1:]:
            assert sum(settings[name] != planned[0][name] for name in grid) == 1
        assert len({tuple(settings.items()) for settings in planned}) == len(planned)
        for name, values in grid.items():
            assert min(values) < planned[0][name] < max(values), (row, name)
    budgets = {len(trials("mini", row)) for row in ("clims", *CORPORA)}
    assert len(budgets) == 1  # each corpus has the budget of the main one


def test_a_corpus_is_its_shares_of_cut_outs():
    for name in CORPORA:
        shares = corpus_settings(name)
        assert sum(shares.values()) == pytest.approx(1)
        profile = load_profile("mini", [f"{k}={v}" for k, v in shares.items()])
        assert profile.clip.cutouts.whole == CORPORA[name]["whole"]
        assert profile.clip.cutouts.hole == 0
    assert corpus_settings("clims") == {}


def test_a_grid_is_tried_on_val_written_and_read(tmp_path, monkeypatch, capsys):
    """The real trainings, of the tiny profile; in this process."""
    text = f'extends = "tiny"\nname = "one"\nnote = ""\noutputs = "{tmp_path}/out"\n'
    (tmp_path / "one.toml").write_text(text + f'data_root = "{tmp_path}/world"\n')
    monkeypatch.setattr(results_tuning, "ROOT", tmp_path)
    profile = load_profile(str(tmp_path / "one.toml"))
    assert read_tuning(profile) == {"tried": {}, "chosen": {}}
    monkeypatch.setattr(tuning, "GRIDS", {"cam": {"cam.lr": (0.001, 0.004)}})

    def here(tasks, jobs, title):
        return {key: task[0](*task[1:], 1) for key, task in tasks.items()}

    monkeypatch.setattr(tuning, "side_by_side", here)
    assert main(["tuning", "--profile", str(tmp_path / "one.toml")]) == 0
    found = read_json(tmp_path / "data/results/one_tuning.json")
    assert [one["settings"] for one in found["tried"]["cam"]] == [
        {"cam.lr": 0.002},
        {"cam.lr": 0.001},
        {"cam.lr": 0.004},
    ]
    assert {one["split"] for one in found["tried"]["cam"]} == {"val"}
    assert found["chosen"]["cam"] == best_of(found["tried"]["cam"]) and "commit" in found
    assert read_tuning(profile)["chosen"] == found["chosen"]
    made = (tmp_path / "out/pseudo_masks").glob("[a-z]*")
    assert {path.name.rpartition("-")[0] for path in made} == {"cam_val"}  # none on test
    again = trial(str(tmp_path / "one.toml"), "cam", {"cam.lr": 0.004}, 1)
    assert again["miou"] == pytest.approx(found["tried"]["cam"][2]["miou"], abs=1e-4)
    assert "row" in capsys.readouterr().out
