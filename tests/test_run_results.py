"""Seeds are measured side by side and put into one table, or none is written."""

import os

import pytest
import run_results
from run_results import combine, measure_seeds

from clims_lib.__main__ import main
from clims_lib.artifacts import read_json


def measured(profile: str, seed: int, threads: int) -> dict:
    if seed == 13:
        raise RuntimeError("unlucky")
    return {
        "rows": [
            {
                "method": "cam",
                "split": "test",
                "seed": seed,
                "miou": 0.4 + seed / 300,
                "iou": {"person": 0.5},
                "threads": os.environ["OMP_NUM_THREADS"],
            }
        ],
        "oracle": [{"class": "train", "mask": "true", "loss": 11.123456}],
    }


@pytest.fixture
def fake(monkeypatch):
    """The real work takes an hour."""

    def seeds(profile, chosen, jobs, work=run_results.measure):
        found = {seed: measured(profile, seed, 1) for seed in chosen if seed != 13}
        if work is run_results.corpora:
            for one in found.values():
                one["rows"][0]["method"] = "clims_whole_pictures"
        return found

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(run_results, "measure_seeds", seeds)


def test_processes_share_the_cores_and_fail_alone(monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(run_results, "CORES", 4)
    found = measure_seeds("tiny", [0, 13], jobs=2, work=measured)
    assert found == {
        0: measured("tiny", 0, 1) | {"rows": [measured("tiny", 0, 1)["rows"][0] | {"threads": "2"}]}
    }
    assert "seed 13 failed: RuntimeError('unlucky')" in capsys.readouterr().err


def test_combined_rows_are_sorted_and_rounded(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    results = combine({seed: measured("tiny", seed, 1) for seed in (2, 0, 1)})
    assert [row["seed"] for row in results["rows"]] == [0, 1, 2]
    assert [row["miou"] for row in results["rows"]] == [0.4, 0.4033, 0.4067]
    assert results["oracle"][1] == {"seed": 1, "class": "train", "mask": "true", "loss": 11.1235}
    assert results["environment"]["cores"] and "commit" in results


def test_table_is_written_whole(fake, tmp_path, capsys):
    out = tmp_path / "mini.json"
    assert main(["results", "--profile", "tiny", "--out", str(out)]) == 0
    methods = [row["method"] for row in read_json(out)["rows"]]
    assert methods == ["cam"] * 3 + ["clims_whole_pictures"]  # the corpora on the first seed only
    assert "cam 40.3 ± 0.3" in " ".join(capsys.readouterr().out.split())
    out.unlink()
    assert main(["results", "--profile", "tiny", "--seeds", "0", "13", "--out", str(out)]) == 1
    assert not out.exists()


def test_bad_options(capsys):
    assert main(["results", "--profile", "minni"]) == 1
    assert "did you mean mini?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["results", "--jobs", "0"])
