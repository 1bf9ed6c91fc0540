"""Seeds are measured side by side and put into one table, or none is written."""

import os

import numpy as np
import pytest
import run_results
from run_results import combine, measure_seeds, merged

from clims_lib.__main__ import main
from clims_lib.artifacts import read_json

CLASSES = ("aeroplane", "boat", "car", "cow", "person", "train")


def measured(profile: str, seed: int, threads: int) -> dict:
    if seed == 13:
        raise RuntimeError("unlucky")
    counts = np.random.default_rng(0).integers(1, 9, (3, 7, 7))
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
        "counts": {"cct": {"confusion": counts}},
    }


def others(profile: str, seed: int, threads: int) -> dict:
    """Another part of the table."""
    row = measured(profile, seed, threads)["rows"][0] | {"method": "clims_whole_pictures"}
    counts = np.random.default_rng(1).integers(1, 9, (3, 7, 7))
    return {"rows": [row], "counts": {"supervised": {"confusion": counts}}}


@pytest.fixture
def fake(monkeypatch):
    """The real work takes an hour."""

    def seeds(profile, chosen, jobs):
        parts = (measured, others)
        return {
            seed: merged([part(profile, seed, 1) for part in parts])
            for seed in chosen
            if seed != 13
        }

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(run_results, "measure_seeds", seeds)


def test_processes_share_the_cores_and_fail_alone(monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(run_results, "CORES", 4)
    found = measure_seeds("tiny", [0, 13], jobs=2, parts=(measured, others))
    assert list(found) == [0]
    assert [row["threads"] for row in found[0]["rows"]] == ["2", "2"]
    assert [row["method"] for row in found[0]["rows"]] == ["cam", "clims_whole_pictures"]
    assert set(found[0]["counts"]) == {"cct", "supervised"}
    assert "measured tiny 13 failed: RuntimeError('unlucky')" in capsys.readouterr().err


def test_combined_rows_are_sorted_and_rounded(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    results = combine({seed: measured("tiny", seed, 1) for seed in (2, 0, 1)}, CLASSES)
    assert [row["seed"] for row in results["rows"]] == [0, 1, 2]
    assert [row["miou"] for row in results["rows"]] == [0.4, 0.4033, 0.4067]
    assert results["oracle"][1] == {"seed": 1, "class": "train", "mask": "true", "loss": 11.1235}
    assert results["environment"]["cores"] and "commit" in results and results["claims"] == []


def test_table_is_written_whole(fake, tmp_path, capsys):
    out = tmp_path / "mini.json"
    assert main(["results", "--profile", "tiny", "--out", str(out)]) == 0
    written = read_json(out)
    methods = [row["method"] for row in written["rows"]]
    assert methods == ["cam"] * 3 + ["clims_whole_pictures"] * 3
    assert "cam 40.3 ± 0.3" in " ".join(capsys.readouterr().out.split())
    (claim,) = written["claims"]  # what can be compared: the parts' counts have met
    assert claim["claim"] == "CCT over supervised only, mIoU" and claim["error"] > 0
    out.unlink()
    assert main(["results", "--profile", "tiny", "--seeds", "0", "13", "--out", str(out)]) == 1
    assert not out.exists()


def test_bad_options(capsys):
    assert main(["results", "--profile", "minni"]) == 1
    assert "did you mean mini?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["results", "--jobs", "0"])
