"""The notebook runner, with two toy notebooks: stops, goes on, keeps, hands over parameters."""

import json
import os
import shutil
import time

import nbformat
import numpy as np
import pytest
import run_tutorial
from conftest import profile_of
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from save_outputs import is_bar, save_outputs
from tqdm import tqdm

from clims_lib import stage
from clims_lib.__main__ import main
from clims_lib.artifacts import read_json
from clims_lib.config import load_profile
from clims_lib.data.voc import write_mask

PARAMETERS = 'PROFILE = "mini"\nSEED = 0\nOVERRIDES = []\n'
WORK = """from clims_lib.config import load_profile
profile = load_profile(PROFILE, [*OVERRIDES, f"seed={SEED}"])
log = profile.outputs.parent / "log.txt"
"""
FIRST = (
    WORK
    + """with log.open("a") as file:
    print("first", SEED, EXTRA, profile.clims.epochs, file=file)"""
)
SECOND = (
    WORK
    + """with log.open("a") as file:
    print("second", SEED, file=file)
from clims_lib.results.tables import record
record(profile.outputs / "metrics" / "01_second.json", profile=profile.name, seed=SEED,
       seconds=1.0, device="cpu", rows=[{"method": "cam", "split": "test", "seed": SEED,
                                         "miou": 0.4, "iou": {"person": 0.3}}]);"""
)
FAILING = """
# the next line is wrong
assert (profile.outputs.parent / "fixed").exists(), "not yet"
"""


def write_notebook(path, parameters, *sources):
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(new_code_cell, sources),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.fixture
def toy(tmp_path):
    """Two notebooks, a profile whose outputs are in the same folder, and how to run them."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write_notebook(folder / "00_first.ipynb", PARAMETERS + "EXTRA = 1", FIRST)
    write_notebook(folder / "01_second.ipynb", PARAMETERS, SECOND, FAILING)
    profile = load_profile("tiny", [f"outputs={tmp_path / 'out'}", "name=toy"])
    (tmp_path / "toy.toml").write_text(repr(profile))

    def run(*more):
        profile = str(tmp_path / "toy.toml")
        return main(["tutorial", "--notebooks", str(folder), "--profile", profile, *more])

    run.folder, run.out, run.log = folder, tmp_path / "out", tmp_path / "log.txt"
    run.lines = lambda: run.log.read_text().splitlines()
    return run


@pytest.mark.slow
def test_stop_resume_keep_and_fresh(toy, capfd):
    assert toy() == 1  # the second cell of the second notebook fails
    error = capfd.readouterr().err
    assert "stopped at 01_second.ipynb, cell 4 of 4, In [4]: # the next line is wrong" in error
    assert "AssertionError: not yet" in error
    assert toy.lines() == ["first 0 1 1", "second 0"]
    assert (toy.out / "00_first.ipynb").exists() and not (toy.out / "01_second.ipynb").exists()
    assert (toy.out / "01_second.unfinished.ipynb").exists()

    (toy.out.parent / "fixed").touch()
    assert toy() == 0  # goes on with the second
    assert toy.lines() == ["first 0 1 1", "second 0", "second 0"]
    assert sorted(p.name for p in toy.out.glob("*.ipynb")) == ["00_first.ipynb", "01_second.ipynb"]
    assert read_json(toy.out / "results.json")["rows"][0]["miou"] == 0.4
    assert "<html" in (toy.out / "report.html").read_text()
    assert "cam     40.0" in capfd.readouterr().out

    assert toy() == 0  # nothing changed: nothing is executed
    assert len(toy.lines()) == 3
    assert "00_first.ipynb: nothing changed, kept" in capfd.readouterr().out

    save_outputs(toy.folder, str(toy.out.parent / "toy.toml"))
    saved = nbformat.read(toy.folder / "01_second.ipynb", as_version=4)
    assert [c.get("execution_count") for c in saved.cells] == [None, 1, 2, 3]
    assert "papermill" not in json.dumps(saved)
    assert toy() == 0 and len(toy.lines()) == 3  # outputs are no change

    assert toy("--only", "00", "-p", "SEED=5", "-p", "EXTRA=two", "-p", "clims.epochs=9") == 0
    assert toy.lines()[3:] == ["first 5 two 9"]
    with pytest.raises(ValueError, match="00_first.ipynb has changed"):
        save_outputs(toy.folder, str(toy.out.parent / "toy.toml"))

    (toy.out / "weights").mkdir()
    assert toy("--fresh") == 0
    assert toy.lines()[4:] == ["first 0 1 1", "second 0"]
    assert not (toy.out / "weights").exists()
    assert "--fresh: deleting" in capfd.readouterr().out


def test_bars_are_not_saved():
    """They would stand at 0 % for ever, and nbval would miss them where nothing is computed."""
    bar = tqdm.format_meter(0, 10, 0, prefix="maps of cam")
    for text, expected in ((bar, True), ("cam 41.2 | 50% of it", False), ("<Figure>", False)):
        output = new_output("display_data", {"text/plain": text})
        assert is_bar(output) is expected, text
    assert not is_bar(new_output("stream", text=bar))


@pytest.mark.slow
def test_a_dead_kernel_is_named(toy, capfd):
    write_notebook(toy.folder / "00_first.ipynb", PARAMETERS, "import os\nos._exit(9)")
    assert toy() == 1
    error = capfd.readouterr().err
    assert "stopped at 00_first.ipynb, cell 3 of 3" in error and "DeadKernelError" in error


@pytest.mark.parametrize(
    "options, message",
    [
        (["-p", "SEDE=1"], "-p SEDE: no notebook has this parameter; did you mean SEED?"),
        (["-p", "seed=1"], "-p seed: no notebook has this parameter; did you mean SEED?"),
        (["-p", "clims.epoch=1"], "unknown key clims.epoch; did you mean clims.epochs?"),
        (["-p", "SEED"], "-p takes name=value"),
        (["-p", "PROFILE=tiny"], "use --profile"),
        (["-p", "OVERRIDES=[]"], "each setting by itself"),
        (["--only", "07"], "--only 07: no such notebook; there are 00, 01"),
    ],
)
def test_bad_options_run_nothing(toy, capsys, options, message):
    assert toy(*options) == 1
    assert message in capsys.readouterr().err
    assert not toy.log.exists() and not toy.out.exists()


def test_unknown_options_and_profiles(toy, capsys):
    with pytest.raises(SystemExit) as stopped:
        toy("--frsh")
    assert stopped.value.code == 2 and "--frsh" in capsys.readouterr().err
    assert main(["tutorial", "--notebooks", str(toy.folder), "--profile", "minni"]) == 1
    assert "no profile 'minni'; did you mean mini?" in capsys.readouterr().err


def test_notebooks_need_parameters(toy, capsys):
    write_notebook(toy.folder / "01_second.ipynb", "SEED = 0")
    assert toy() == 1
    assert (
        "01_second.ipynb needs a cell tagged `parameters` that sets PROFILE, OVERRIDES"
        in capsys.readouterr().err
    )
    shutil.rmtree(toy.folder)
    assert toy() == 1 and "no notebooks named" in capsys.readouterr().err


def test_cells_that_need_what_is_absent_say_so():
    cells = [
        new_code_cell("1 + 1"),
        new_code_cell("look()", metadata={"tags": ["needs-clip"]}),
        new_code_cell("leak()", metadata={"tags": ["x", "needs-clip", "needs-grounds"]}),
    ]
    notebook = new_notebook(cells=cells)
    run_tutorial.leave_out(notebook.cells, {"grounds": "no grounds here"})
    assert [c.cell_type for c in notebook.cells] == ["code", "code", "markdown"]
    assert notebook.cells[2].source.startswith("**Not run here**: no grounds here.")
    assert "leak()" in notebook.cells[2].source  # the reader still sees what would have run
    run_tutorial.leave_out(notebook.cells, {"clip": "no weights"})
    assert "no weights" in notebook.cells[1].source
    nbformat.validate(notebook)


def test_pseudo_masks_that_need_absent_weights_are_told_before_hours_of_training():
    absent = ["clip_checkpoint=nowhere.pt", "pseudo.method=clims_walk"]
    with pytest.raises(run_tutorial.TutorialError) as error:
        run_tutorial.check_pseudo_masks(load_profile("voc2012_smoke", absent))
    assert "clims_walk, but CLIP's weights are not here" in str(error.value)
    assert "-p pseudo.method=cam_walk" in str(error.value)
    absent[1] = "pseudo.method=cam_walk"
    run_tutorial.check_pseudo_masks(load_profile("voc2012_smoke", absent))
    run_tutorial.check_pseudo_masks(load_profile("mini"))  # trains a CLIP of its own


def test_state_follows_what_matters(toy, tmp_path):
    def states(**parameters):
        notebooks = run_tutorial.find_notebooks(toy.folder)
        parameters = {"PROFILE": str(tmp_path / "toy.toml"), "OVERRIDES": [], **parameters}
        return [run_tutorial.state_of(n, notebooks, parameters, {}) for n in notebooks]

    first, second = states()
    absent = run_tutorial.state_of(
        run_tutorial.find_notebooks(toy.folder)[0],
        [],
        {"PROFILE": str(tmp_path / "toy.toml"), "OVERRIDES": []},
        {"clip": "why"},
    )
    assert absent != first
    assert [first, second] == states()
    child = tmp_path / "child.toml"
    text = f'name = "child"\nnote = "n"\noutputs = "{tmp_path / "of_child"}"\n'
    child.write_text(f'extends = "toy.toml"\n{text}')
    of_child = states(PROFILE=str(child))
    parent = tmp_path / "toy.toml"
    before = parent.read_text()
    parent.write_text(before.replace("seed = 0", "seed = 5"))
    assert states(PROFILE=str(child))[0] != of_child[0]  # what is inherited counts
    parent.write_text(before)
    assert states(SEED=1)[0] != first and states(OVERRIDES=["clims.epochs=2"])[1] != second
    path = toy.folder / "00_first.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "# Other title"
    nbformat.write(notebook, path)
    assert states()[0] != first and states()[1] == second  # prose concerns one notebook
    notebook.cells[2].source += "\n1 + 1"
    nbformat.write(notebook, path)
    assert states()[1] != second  # code concerns those that come after, too


def test_fresh_deletes_only_outputs(toy, tmp_path, capsys):
    (tmp_path / "out" / "holiday").mkdir(parents=True)
    assert toy("--fresh") == 1
    assert "delete it yourself" in capsys.readouterr().err
    assert (tmp_path / "out" / "holiday").is_dir()


def test_one_at_a_time(toy, capsys):
    with run_tutorial.locked(toy.out):
        assert toy() == 1
    assert "another ci/tutorial or ci/sweep is at work" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def keep_environment(monkeypatch):
    """The runner changes these for its kernels."""
    for name in (
        "PYTHONPATH",
        "JUPYTER_PREFER_ENV_PATH",
        "MPLBACKEND",
        "PYDEVD_DISABLE_FILE_VALIDATION",
    ):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def test_a_changed_mask_executes_the_notebooks_again(toy, tmp_path, small_voc):
    """Also one of equal length; before the data are there, their absence is the state."""
    own = tmp_path / "own.toml"
    own.write_text(repr(profile_of(small_voc)).replace("[data]", "[data]", 1))
    (notebook, *_) = notebooks = run_tutorial.find_notebooks(toy.folder)

    def state():
        parameters = {"PROFILE": str(own), "OVERRIDES": []}
        return run_tutorial.state_of(notebook, notebooks, parameters, {})

    before = state()
    assert state() == before
    path = small_voc / "SegmentationClass" / "p0.png"
    pixels = path.read_bytes()
    write_mask(path, np.full((24, 32), 3, np.uint8))
    after = state()
    assert after != before
    path.write_bytes(pixels)
    assert state() == before
    small_voc.rename(tmp_path / "elsewhere")
    assert state() not in (before, after)


def test_the_reason_of_work_that_was_done_before_is_said(tmp_path):
    profile = load_profile("tiny", [f"outputs={tmp_path}"])

    def train(name, epochs, code, **inputs):
        settings = load_profile("tiny", [f"outputs={tmp_path}", f"clims.epochs={epochs}"])
        recipe = {"code": code}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stage, "code_of", lambda *_: recipe["code"])
            return stage.make_once(
                settings, "weights", name, lambda folder: None, settings=["clims.epochs"],
                inputs=inputs,
            )  # fmt: skip

    first = train("clims", 6, {"losses.py": "a", "cam.py": "c"})
    train("walk", 6, {}, network=first)
    assert run_tutorial.made_anew(profile.outputs, 0) == {}  # nothing was there
    since = time.time()
    second = train("clims", 6, {"losses.py": "b", "cam.py": "c"})
    train("walk", 6, {}, network=second)
    train("clims", 7, {"losses.py": "a", "cam.py": "c"})
    assert run_tutorial.made_anew(profile.outputs, since) == {
        "losses.py changed": ["clims", "walk"],
        "clims.epochs is 7, was 6": ["clims"],
    }
    for manifest in profile.outputs.glob("*/*/manifest.json"):
        manifest.write_text("damaged")  # reasons are lost, work goes on
    assert "why" in read_json(train("clims", 8, {}) / "manifest.json")
