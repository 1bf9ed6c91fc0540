"""The command: help without heavy imports, from any folder; what goes wrong is said in a line."""

import os
import shutil
import subprocess
import sys
import tomllib

import pytest

from clims_lib import commands
from clims_lib.__main__ import main, parse
from clims_lib.config import load_profile

NAMES = [declare.__name__ for declare in commands.COMMANDS]
HEAVY = ("torch", "torchvision", "clip", "IPython", "matplotlib", "ipywidgets", "papermill", "PIL")
LOADED = """
import sys
from clims_lib.__main__ import main
for name in {names}:
    try:
        main([name, "--help"])
    except SystemExit as stopped:
        assert stopped.code == 0, name
print([name for name in {heavy} if name in sys.modules])
"""


def call(folder, *words, code=("-m", "clims_lib"), path, **more):
    environment = os.environ | {"PYTHONPATH": str(path)} | more
    command = [sys.executable, *code, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_help_loads_nothing_heavy(root, tmp_path):
    said = call(tmp_path, code=("-c", LOADED.format(names=NAMES, heavy=HEAVY)), path=root)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1] == "[]"
    assert said.stdout.count("usage: clims ") == len(NAMES)


def test_without_words_it_lists_its_commands(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    said = capsys.readouterr().out
    assert stopped.value.code == 2 and all(f"    {name}" in said for name in NAMES)


def test_every_wrapper_calls_a_command(root):
    for path in (root / "ci").iterdir():
        text = path.read_text() if path.is_file() else ""
        if "exec " in text:
            assert f'exec "$PYTHON" -m clims_lib {path.name} "$@"' in text
            assert path.name in NAMES
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"clims": "clims_lib.__main__:main"}


@pytest.mark.parametrize(
    "words, message",
    [
        (["tutrial"], "no command 'tutrial'; did you mean tutorial?"),
        (["xyz"], "no command 'xyz'; known: bench, book, claims,"),
        (["train", "cam", "--epochs", "2"], "unrecognized arguments: --epochs 2"),
        (["segment"], "the following arguments are required: method"),
        (["sweep", "grid.toml", "--jobs", "0"], "argument --jobs: is a number, at least 1"),
        (["tutorial", "--prof", "tiny"], "unrecognized arguments: --prof tiny"),
    ],
)
def test_wrong_words_are_usage_errors(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["claims", "--profile", "minni"], "no profile 'minni'; did you mean mini?"),
        (["train", "clim"], "no method 'clim'; did you mean clims?"),
        (["train", "cam", "-p", "clims.epoch=2"], "clims.epoch; did you mean clims.epochs?"),
        (["segment", "cct", "-p", "clims"], "an override looks like clims.epochs=2, not 'clims'"),
        (["train", "cam", "--profile", "none.toml"], "none.toml does not exist"),
        (["bench", "mio"], "no benchmark 'mio'; did you mean miou?"),
        (["sample", "nowhere"], "nowhere has no folder JPEGImages"),
        (["segment", "cct", "--profile", "voc2012", "--data-root", "nowhere"], "no VOC-layout"),
    ],
)
def test_what_fails_is_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"clims {words[0]}: ") and message in said and said.count("\n") == 1


def test_an_interrupt_is_130(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.course, "program", interrupted)
    assert main(["book"]) == 130
    assert capsys.readouterr().err.startswith("clims book: interrupted; ")


def test_settings_are_those_of_load_profile(tmp_path, monkeypatch):
    """--data-root is a setting like -p's, files are found from elsewhere, and the last one wins."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").write_text(repr(load_profile("tiny", ["name=my"])))
    words = ["train", "cam", "--profile", "my.toml", "-p", "seed=3", "-p", "data_root=a"]
    options = parse([*words, "--data-root", 'with "quotes"'])
    monkeypatch.chdir("/")
    profile = load_profile(options["profile"], options["overrides"])
    assert (profile.name, profile.seed) == ("my", 3)
    assert profile.data_root == tmp_path / 'with "quotes"'
    assert parse(["train", "cam"])["overrides"] == []  # nothing stays from one call to the next


def test_unknown_options_of_lab_are_jupyters():
    assert parse(["lab", "--port", "9", "--no-browser"])["passed_on"] == [
        "--port",
        "9",
        "--no-browser",
    ]


def test_it_works_from_another_folder(root, tmp_path):
    here, there = (call(folder, "claims", path=root) for folder in (root, tmp_path))
    assert here.returncode == there.returncode == 0, there.stderr
    assert there.stdout == here.stdout and "CLIMS over CAM, mIoU" in there.stdout


def test_installed_without_a_checkout_it_says_so(root, tmp_path):
    shutil.copytree(root / "clims_lib", tmp_path / "site/clims_lib")
    for name in ("tutorial", "lab"):
        said = call(tmp_path, name, path=tmp_path / "site")
        assert said.returncode == 1
        assert said.stderr.startswith(f"clims {name}: works in a checkout of the repository only")
    assert call(tmp_path, "sweep", "--help", path=tmp_path / "site").returncode == 0


def test_idle_threads_sleep_unless_they_were_told_otherwise(root, tmp_path, monkeypatch):
    code = (
        "import os; from clims_lib.__main__ import main; main(['claims', '--profile', 'minni']);"
        "print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"
    )
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    said = call(tmp_path, code=("-c", code), path=root, OMP_WAIT_POLICY="ACTIVE")
    assert said.stdout == "ACTIVE 0\n"
