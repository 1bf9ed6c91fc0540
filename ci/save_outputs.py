"""Puts the outputs of the last `ci/tutorial` into notebooks/, for readers and for nbval.

python ci/save_outputs.py [profile]   (after a run without -p)
"""

import os
import re
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from run_tutorial import ROOT, STATE, find_notebooks, is_finished, read_parameters, state_of

from clims_lib.config import load_profile
from clims_lib.stages.clip import missing


def save_outputs(folder: Path, profile: str) -> None:
    """Raise ValueError, changing nothing, unless every notebook is executed as it now is."""
    notebooks = find_notebooks(folder)
    parameters = read_parameters([], notebooks) | {"PROFILE": profile}
    outputs, absent = load_profile(profile).outputs, missing(load_profile(profile))
    for notebook in notebooks:
        state = state_of(notebook, notebooks, parameters, absent)
        if not is_finished(outputs / notebook.path.name, state):
            raise ValueError(
                f"{notebook.path.name} has changed since it was executed, or was run "
                f"with -p: run ci/tutorial --profile {profile} first"
            )
    for notebook in notebooks:
        result = without_traces(nbformat.read(outputs / notebook.path.name, as_version=4))
        temporary = notebook.path.with_suffix(".tmp")
        nbformat.write(result, temporary)
        os.replace(temporary, notebook.path)


def without_traces(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what papermill added, timings and all, so that only real changes show in a diff."""
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    count = 0
    for cell in notebook.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", ["kept"]):
            del cell.metadata["tags"]
        if cell.cell_type == "code":  # a bar's widget is gone: it would stay at 0 % for ever
            cell.outputs = [output for output in cell.outputs if not is_bar(output)]
        if cell.cell_type == "code" and cell.execution_count is not None:
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
    for name in ("papermill", STATE, "widgets"):
        notebook.metadata.pop(name, None)
    # the interpreter's version would change with whoever runs it
    notebook.metadata.get("language_info", {}).pop("version", None)
    return notebook


def is_bar(output: nbformat.NotebookNode) -> bool:
    """Is it what tqdm shows where widgets run: "maps of cam:   0%|          | 0/10 ..."?"""
    text = output.get("data", {}).get("text/plain", "")
    return re.match(r"[^\n]*\d+%\|.*\| \d+/\d+ \[", text) is not None


if __name__ == "__main__":
    try:
        save_outputs(ROOT / "notebooks", *(sys.argv[1:] or ["mini"]))
    except ValueError as error:
        sys.exit(f"save_outputs: {error}")
