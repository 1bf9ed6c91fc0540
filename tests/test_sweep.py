"""Sweeps of a toy notebook: the grid, the table, failures, kill -9, Dask; and of a real one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import papermill
import psutil
import pytest
import run_sweep
import run_tutorial
import sweep_table
from run_sweep import plan
from test_run_tutorial import keep_environment, write_notebook  # noqa: F401

from clims_lib.__main__ import main
from clims_lib.config import load_profile
from clims_lib.stages.measures import measure

pandas = pytest.importorskip("pandas", reason="the extra `sweep` is not installed")

PARAMETERS = 'PROFILE = "mini"\nSEED = 0\nOVERRIDES = []\nWORD = "none"'
START = """import json, pathlib, time
outputs = pathlib.Path(json.loads(OVERRIDES[-1].partition("=")[2]))
place = outputs.parents[2]
with (place / "log.txt").open("a") as file:
    print(SEED, file=file)"""
WAIT = """while (place / f"wait{SEED}").exists():
    time.sleep(0.05)"""
BREAK = """# breaks
assert not (place / f"broken{SEED}").exists(), "not today\\nnor tomorrow" """
MEASURE = """row = {"method": "clims", "split": "val", "seed": SEED, "crf": False, "threshold": 0.5,
       "miou": SEED / 10, "iou": {"person": 0.25}, "leak": {"water->boat": 0.5}}
metrics = outputs / "metrics"
metrics.mkdir(exist_ok=True)
(metrics / "00_toy.json").write_text(json.dumps({
    "profile": "toy", "seed": SEED, "seconds": 1.5, "device": "cpu", "zero_shot": [],
    "rows": [row, row | {"split": "test", "miou": 0.9}], "oracle": []}))"""


@pytest.fixture
def toy(tmp_path):
    """One notebook that tells on itself, a profile with outputs beside it, and the command."""
    write_notebook(tmp_path / "00_toy.ipynb", PARAMETERS, START, WAIT, BREAK, MEASURE)
    profile = tmp_path / "toy.toml"
    profile.write_text(repr(load_profile("tiny", [f"outputs={tmp_path / 'out'}", "name=toy"])))

    def grid(text, name="grid"):
        path = tmp_path / f"{name}.toml"
        path.write_text(f'profile = "{profile}"\n[grid]\n{text}')
        return path

    def run(path, *more):
        return main(["sweep", str(path), "--notebooks", str(tmp_path), *more])

    run.grid, run.place, run.sweeps = grid, tmp_path, tmp_path / "out_sweeps"
    run.plan = lambda text: plan(grid(text), tmp_path)
    run.log = lambda: Counter((tmp_path / "log.txt").read_text().split())
    return run


def test_a_grid_is_every_combination(toy):
    others = [t for t in load_profile("tiny").losses.background if not t.startswith("boat")]
    water, sea = ["boat: water", *others], ['boat: "sea"', *others]
    runs = toy.plan(
        "SEED = [0, 1]\nlosses.weights.cbs = [0, 8.0]\n"
        f'"losses.background" = {json.dumps([water, sea])}\nWORD = ["a b"]'
    )
    assert [tuple(run["values"].values()) for run in runs.values()] == [
        (0, 0, water, "a b"),
        (0, 0, sea, "a b"),
        (0, 8.0, water, "a b"),
        (0, 8.0, sea, "a b"),
        (1, 0, water, "a b"),
        (1, 0, sea, "a b"),
        (1, 8.0, water, "a b"),
        (1, 8.0, sea, "a b"),
    ]
    for folder, run in runs.items():
        values, parameters = run["values"], run["parameters"]
        settings = load_profile(parameters["PROFILE"], parameters["OVERRIDES"])
        assert (parameters["SEED"], parameters["WORD"]) == (values["SEED"], "a b")
        assert settings.losses.weights["cbs"] == values["losses.weights.cbs"]
        assert settings.outputs == folder
        assert settings.losses.background == tuple(values["losses.background"])
    assert {folder.parent for folder in runs} == {toy.sweeps / "grid"}


def test_a_run_is_named_by_what_it_does(toy):
    two = toy.plan("SEED = [0, 1]\nlosses.weights.cbs = [8]").keys()
    assert toy.plan("losses.weights.cbs = [8.0, 8]\nSEED = [1, 0, 1]").keys() == two
    assert toy.plan("SEED = [0, 1]").keys() == two  # 8 is the profile's
    assert not toy.plan("SEED = [0, 1]\nlosses.weights.cbs = [9]").keys() & two


def test_runs_on_worlds_of_other_sizes_have_folders_of_their_own(toy):
    runs = toy.plan("SEED = [0, 1]\ndata.train = [48, 60]").values()
    settings = [run_sweep.settings_of(run) for run in runs]
    assert [s.data.train for s in settings] == [48, 60, 48, 60]
    usual, other = load_profile("tiny").data_root, settings[1].data_root
    assert [s.data_root for s in settings] == [usual, other, usual, other]
    assert other.parent == toy.sweeps / "grid" and other.name.startswith("miniworld-")
    mine = toy.place / "mine"
    for run in toy.plan(f'data_root = ["{mine}"]\ndata.train = [60]').values():
        assert run_sweep.settings_of(run).data_root == mine


@pytest.mark.parametrize(
    "text, message",
    [
        ("[grid]\nSEDE = [1]", "SEDE: no notebook has this parameter; did you mean SEED?"),
        ("[grid]\nclims.lrr = [1]", "unknown key clims.lrr; did you mean clims.lr?"),
        ("[grid]\nlosses.weights.cbz = [1]", "no loss term 'cbz'; did you mean cbs?"),
        ("[grid]\nSEED = [1]\nclims.lr = [1, 'x']", "clims.lr must be float, not 'x'"),
        ("[grid]\nSEED = 1", "SEED in the grid is a list of values, not 1"),
        ("[grid]\nSEED = []", "SEED in the grid is a list of values"),
        ("[grid]\noutputs = ['a']", "but not outputs"),
        ("[grid]", "the grid has a parameter or more"),
        ("gird = {SEED = [1]}", "unknown key gird; did you mean grid?"),
        ("only = '00'\n[grid]\nSEED = [1]", "only = '00'; ci/sweep --help"),
        ("only = ['07']\n[grid]\nSEED = [1]", "--only 07: no such notebook; there are 00"),
        ("[grid", "is not TOML"),
    ],
)
def test_a_bad_grid_runs_nothing(toy, text, message, capsys):
    (toy.place / "bad.toml").write_text(
        f'profile = "{toy.place / "toy.toml"}"\n{text}' if text.startswith("[") else text
    )
    assert toy(toy.place / "bad.toml") == 1
    assert message in capsys.readouterr().err
    assert not toy.sweeps.exists()


def test_one_at_a_time(toy, capsys):
    with run_tutorial.locked(toy.sweeps / "grid"):
        assert toy(toy.grid("SEED = [0]")) == 1
    assert "another ci/tutorial or ci/sweep is at work" in capsys.readouterr().err
    assert toy(toy.place / "none.toml") == 1 and "does not exist" in capsys.readouterr().err


def test_runs_share_every_folder_of_artifacts(root):
    sources = "".join(path.read_text() for path in (root / "clims_lib").rglob("*.py"))
    kinds = re.findall(r'make_once\(\s*profile,\s*"(\w+)"', sources)
    kinds += re.findall(r'outputs / "(\w+)"', sources)
    assert sorted(set(kinds)) == sorted(run_sweep.SHARED)


def test_scores_are_those_of_one_split():
    row = {
        "method": "clims",
        "miou": 0.5,
        "iou": {"cow": None, "boat": 0.4},
        "leak": {"water->boat": 0.1},
    }
    loss = {"true": 2.0, "true_blurred": 2.5, "empty": 3.5}
    results = {
        "rows": [row | {"split": "val"}, row | {"split": "test", "miou": 0.9}],
        "zero_shot": [{"model": "clip", "split": "val", "accuracy": {"cow": 0.75}}],
        "oracle": [{"class": "cow", "seed": 0, "mask": m, "loss": v} for m, v in loss.items()],
    }
    assert sweep_table.scores_of(results, "val") == {
        "clims.miou": 0.5,
        "clims.cow": None,
        "clims.boat": 0.4,
        "clims.water->boat": 0.1,
        "clip.accuracy.cow": 0.75,
        "margin.cow": 1.5,
    }


def test_tables_read_back(tmp_path):
    rows = [
        {"run": "run-1", "p": ['a, "b"'], "status": "finished", "commit": "1234567890", "x": 1},
        {"run": "run-2", "p": ["río"], "status": "failed", "error": "E: one, two"},
    ]
    sweep_table.write_table(tmp_path / "t.csv", rows, ["p"])
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "run,p,status,seconds,error,notebook,split,commit,x",
        'run-1,"[""a, \\""b\\""""]",finished,,,,,1234567890,1',
        'run-2,"[""río""]",failed,,"E: one, two",,,,',
    ]
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    sweep_table.write_parquet(tmp_path / "t.csv")
    frame = pandas.read_parquet(tmp_path / "t.parquet")
    assert frame.commit[0] == "1234567890" and json.loads(frame.p[0]) == ['a, "b"']
    assert frame.x[0] == 1 and pandas.isna(frame.x[1])


@pytest.mark.slow
def test_failed_runs_are_listed_and_run_again_alone(toy, capfd):
    grid = toy.grid("SEED = [0, 1]")
    (toy.place / "broken1").touch()
    assert toy(grid, "--jobs", "2") == 1
    said = capfd.readouterr().out
    assert "1 of 2 runs finished, 1 failed" in said
    assert "SEED=1: stopped at 00_toy.ipynb, cell 5 of 6, In [5]: # breaks" in said
    first, second = pandas.read_csv(toy.sweeps / "grid/sweep.csv").to_dict("records")
    assert first["status"] == "finished" and first["clims.water->boat"] == 0.5
    assert second["status"] == "failed" and second["error"].endswith("AssertionError: not today")
    assert "nor tomorrow" in open(second["notebook"]).read()

    (toy.place / "broken1").unlink()
    assert toy(grid) == 1 and toy.log() == {"0": 1, "1": 1}  # nothing is missing
    assert toy(grid, "--retry") == 0 and toy.log() == {"0": 1, "1": 2}
    table = pandas.read_csv(toy.sweeps / "grid/sweep.csv")
    assert list(table.status) == ["finished"] * 2 and list(table["clims.miou"]) == [0, 0.1]
    assert table.error.isna().all() and list(table.seconds) == [1.5, 1.5]


@pytest.mark.slow
def test_killed_it_loses_no_finished_run(toy, root):
    grid = toy.grid("SEED = [0, 1, 2]")
    (toy.place / "wait1").touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "clims_lib", "sweep", grid, "--notebooks", toy.place, "--jobs", "1"],
        start_new_session=True,
        cwd=root,
    )
    deadline = time.monotonic() + 900  # a loaded machine imports torch for a minute
    while not (toy.place / "log.txt").exists() or "1" not in toy.log():
        assert process.poll() is None and time.monotonic() < deadline, "the sweep hangs or ended"
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2  # a run and its kernel
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    assert not psutil.wait_procs(family, timeout=300)[1], "the sweep is dead, its runs are not"
    first, *rest = toy.plan("SEED = [0, 1, 2]")
    assert [sweep_table.status_of(f) for f in (first, *rest)] == ["finished", "missing", "missing"]

    files = [first / "results.json", first / "00_toy.ipynb"]
    before = [file.stat().st_mtime_ns for file in files]
    (toy.place / "wait1").unlink()
    assert toy(grid) == 0
    assert toy.log() == {"0": 1, "1": 2, "2": 1}
    assert [file.stat().st_mtime_ns for file in files] == before
    table = pandas.read_csv(toy.sweeps / "grid/sweep.csv")
    assert list(table["clims.miou"]) == [0, 0.1, 0.2]


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_table(toy):
    distributed = pytest.importorskip("distributed", reason="the extra `sweep` is not installed")
    (toy.place / "broken1").touch()
    assert toy(toy.grid("SEED = [0, 1]", "here")) == 1
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        there = toy.grid("SEED = [0, 1]", "there")
        assert toy(there, "--dask", cluster.scheduler_address) == 1
    assert toy.log() == {"0": 2, "1": 2}
    here, there = (pandas.read_csv(toy.sweeps / name / "sweep.csv") for name in ("here", "there"))
    assert list(here.status) == ["finished", "failed"]
    there.notebook = there.notebook.str.replace("/there/", "/here/")
    here.loc[1, "seconds"] = there.loc[1, "seconds"] = 0  # a failed run's are measured
    pandas.testing.assert_frame_equal(here, there)


def test_no_dask_scheduler(toy, capsys, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra `sweep` is not installed")

    def refuse(address):
        raise OSError("nobody there")

    monkeypatch.setattr(distributed, "Client", refuse)
    assert toy(toy.grid("SEED = [0]"), "--dask", "tcp://127.0.0.1:1") == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:1: nobody there" in capsys.readouterr().err


@pytest.mark.slow
def test_real_runs_share_what_is_trained(tmp_path):
    """Notebook 03 with two weights; the table says what the library measures."""
    profile = tmp_path / "toy.toml"
    profile.write_text(repr(load_profile("tiny", [f"outputs={tmp_path / 'out'}"])))
    grid = tmp_path / "grid.toml"
    grid.write_text(f'profile = "{profile}"\nonly = ["03"]\n[grid]\nlosses.weights.cbs = [0, 8]\n')
    assert main(["sweep", str(grid)]) == 0
    table = pandas.read_csv(tmp_path / "out_sweeps/grid/sweep.csv")
    assert list(table["losses.weights.cbs"]) == [0, 8]
    for row in table.to_dict("records"):
        settings = load_profile(str(profile), [f"losses.weights.cbs={row['losses.weights.cbs']}"])
        scores = {r["split"]: r for r in measure(settings, "clims")}["val"]
        assert row["clims.miou"] == scores["miou"]
        assert row["clims.railroad->train"] == scores["leak"]["railroad->train"]
    trained = Counter(p.name.rpartition("-")[0] for p in (tmp_path / "out/weights").glob("[a-z]*"))
    assert (trained["clip"], trained["cam"], trained["clims"]) == (1, 1, 2)
    assert not (tmp_path / "out/metrics").exists()  # a sweep leaves the tutorial's own alone


@pytest.mark.slow
def test_the_notebook_plots_a_table(root, tmp_path):
    text = (root / "data/results/sweep_example.csv").read_text().splitlines()
    names = text[0].split(",")
    failed = dict.fromkeys(names, "") | {
        "run": "run-x",
        "SEED": "7",
        "losses.weights.cbs": "9.5",
        "losses.weights.reg": "180.0",
        "status": "failed",
        "error": "RuntimeError: by design",
    }
    (tmp_path / "sweep.csv").write_text("\n".join([*text, ",".join(failed.values())]) + "\n")
    run_tutorial.prepare_kernels()
    done = papermill.execute_notebook(
        str(root / "notebooks/sweep.ipynb"),
        str(tmp_path / "done.ipynb"),
        progress_bar=False,
        parameters={
            "TABLE": str(tmp_path / "sweep.csv"),
            "X": "losses.weights.reg",
            "Y": "losses.weights.cbs",
        },
        kernel_name="python3",
    )
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert "RuntimeError: by design" in json.dumps(outputs)
