"""Notebooks name nothing that the library lacks, also in cells that no test executes."""

import ast
import contextlib
import importlib
import inspect
from types import ModuleType

import nbformat
import pytest
from conftest import ROOT

FOLDERS = "notebooks/*.ipynb", "notebooks/exercises/source/*/*.ipynb"
NOTEBOOKS = sorted(path for folder in FOLDERS for path in ROOT.glob(folder))


def wrong_names(source: str) -> list[str]:
    """Imports from clims_lib and attributes of its modules that are not there, and calls of its
    functions with arguments that they do not take."""
    tree, known, wrong = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "clims_lib":
            for alias in node.names:
                known[alias.asname or alias.name] = found = find(node.module, alias.name)
                wrong += [f"{node.module}.{alias.name}"] if found is None else []
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
    for name in {n.id for n in names if isinstance(n.ctx, ast.Store)}:
        known.pop(name, None)  # a variable of the notebook's own
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            module = value_of(node.value, known)
            if isinstance(module, ModuleType) and not hasattr(module, node.attr):
                wrong.append(f"{module.__name__}.{node.attr}")
        elif isinstance(node, ast.Call) and inspect.isfunction(found := value_of(node.func, known)):
            starred = any(isinstance(value, ast.Starred) for value in node.args)
            if not starred and all(keyword.arg for keyword in node.keywords):
                try:
                    inspect.signature(found).bind(*node.args, **{k.arg: 0 for k in node.keywords})
                except TypeError as error:
                    wrong.append(f"{found.__name__}: {error}")
    return wrong


def find(module: str, name: str):
    with contextlib.suppress(ModuleNotFoundError):
        return getattr(importlib.import_module(module), name, None) or importlib.import_module(
            f"{module}.{name}"
        )


def value_of(node: ast.expr, known: dict):
    """What of the library `name` or `module.name` is; None where that cannot be told."""
    if isinstance(node, ast.Attribute):
        module = value_of(node.value, known)
        return getattr(module, node.attr, None) if isinstance(module, ModuleType) else None
    return known.get(node.id) if isinstance(node, ast.Name) else None


def test_wrong_names_are_found():
    head = "from clims_lib import crf, losses as l, nothing\nfrom clims_lib.cam import CAM\n"
    used = "crf.dense_crf\nl.area_los(1)\nl.area_loss(cam=1)\nl.area_loss(*x)\ncrf = 1\ncrf.real"
    assert set(wrong_names(f"{head}{used}\n")) == {
        "clims_lib.nothing",
        "clims_lib.cam.CAM",
        "clims_lib.losses.area_los",
        "area_loss: missing a required argument: 'cams'",
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_names_that_exist(path):
    cells = nbformat.read(path, as_version=4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert not wrong_names(source)
