"""pyproject.toml, ci/constraints.txt and environment.yml name the same packages."""

import os
import re
import subprocess
import tomllib

import nbformat
import pytest

CONDA_NAMES = {"torch": "pytorch"}
SCRIPTS = (
    "ci/tutorial",
    "ci/test",
    "ci/results",
    "ci/lab",
    "ci/sample",
    "ci/bench",
    "ci/book",
    "ci/exercises",
    "ci/sweep",
    "ci/explore",
    ".ci/run",
)


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def split(requirement: str) -> tuple[str, str]:
    name, condition = re.fullmatch(r"([\w-]+)(.*)", requirement.replace(" ", "")).groups()
    return name, condition


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


@pytest.fixture(scope="module")
def ranges(project):
    """Every package of the project and its extras with its range."""
    extras = project["optional-dependencies"].values()
    return dict(map(split, [*project["dependencies"], *(p for extra in extras for p in extra)]))


def test_constraints_pin_every_package_inside_its_range(root, ranges):
    lines = (root / "ci/constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pins.keys() == ranges.keys()
    for name, condition in ranges.items():
        pin = number(pins[name])
        sign, bound = re.fullmatch(r"(>=|<|==)([\d.]+)", condition).groups()
        inside = {">=": pin >= number(bound), "<": pin < number(bound), "==": pin == number(bound)}
        assert inside[sign], f"{name}=={pins[name]} is not {condition}"


def test_environment_has_the_same_packages_and_ranges(root, project):
    lines = (root / "environment.yml").read_text().splitlines()
    items = [line.split("#")[0].strip() for line in lines]
    items = [item.removeprefix("- ") for item in items if item.startswith("- ")]
    found = [item for item in items if item not in ("conda-forge", "pip", "pip:", "-e .")]
    assert "-e ." in items
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    wanted = [CONDA_NAMES.get(name, name) + condition for name, condition in map(split, wanted)]
    assert sorted(found) == sorted([*wanted, f"python{project['requires-python']}"])


def test_profiles_are_packaged(root):
    tool = tomllib.loads((root / "pyproject.toml").read_text())["tool"]
    assert tool["setuptools"]["package-data"] == {
        "clims_lib": ["profiles/*.toml", "profiles/common/*.toml"]
    }
    for folder in ("profiles", "profiles/common"):
        assert list((root / "clims_lib" / folder).glob("*.toml"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_strict_and_executable(root, script):
    path = root / script
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", path], check=True)


def test_unknown_options_are_refused(root):
    call = subprocess.run([root / "ci/test", "--quik"], capture_output=True, text=True)
    assert call.returncode == 2 and "usage: ci/test [--quick]" in call.stderr


def test_committed_notebooks_come_from_one_whole_run(root):
    """nbval does not compare cells that were never executed, so none may be.

    Sources of exercises and the explorers' page hold no outputs: other tests execute them.
    """
    notebooks = root / "notebooks"
    for path in [*sorted(notebooks.glob("[0-9][0-9]_*.ipynb")), notebooks / "sweep.ipynb"]:
        cells = [
            c
            for c in nbformat.read(path, as_version=4).cells
            if c.cell_type == "code" and c.source.strip()
        ]
        counts = [cell.execution_count for cell in cells]
        assert counts == list(range(1, len(cells) + 1)), f"{path.name}: python ci/save_outputs.py"
        kinds = {o.output_type for cell in cells for o in cell.outputs}
        assert "error" not in kinds, f"{path.name} shows an error"
