"""Figures say what they show, in words that are theirs, and Jupyter keeps the words."""

import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from clims_lib import plots
from clims_lib.plots import describe
from clims_lib.results.report import save_figure

PICTURE = np.zeros((4, 4, 3))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plots.plt.close("all")


@pytest.mark.parametrize(
    "figure, words",
    [
        (
            lambda: plots.gallery([PICTURE] * 3, ["a", "b, c", "d"]),
            {"3 pictures", "a", "b, c", "d"},
        ),
        (lambda: plots.gallery([PICTURE]), {""}),
        (
            lambda: plots.grid([[PICTURE] * 2] * 2, ["boat", "cow"], ["picture", "CAM"]),
            {"4 pictures", "boat", "cow", "picture", "CAM"},
        ),
        (lambda: plots.legend_of(["boat", "cow"]), {"boat", "cow"}),
        (
            lambda: plots.bars({"CAM": {"x": 0.25, "y": None}, "CLIMS": {"x": 0.9}}, "IoU"),
            {"IoU", "CAM", "CLIMS", "x", "y"},
        ),
        (
            lambda: plots.curves({"bce": ([1, 2, 300], [0.5, 0.9, 0.25])}, "epoch", "loss"),
            {"epoch", "loss", "bce"},
        ),
        (
            lambda: plots.heat_table([[1, 2], [2, 3]], ["r", "s"], ["a\nb", "c"], "margins"),
            {"margins", "r", "s", "a b", "c"},
        ),
    ],
)
def test_words_come_from_the_figure(figure, words):
    assert set(describe(figure()).split("; ")) == words


def test_written_words_win(tmp_path):
    figure = plots.legend_of(["boat"])
    save_figure(figure, tmp_path / "x.png", "The boat is green")
    assert describe(figure) == "The boat is green"


def test_jupyter_keeps_the_words_of_every_figure(root, monkeypatch):
    """Also of one that was neither made nor saved by the library."""
    monkeypatch.delenv(
        "MPLBACKEND", raising=False
    )  # as people have it: figures show inside the notebook
    code = """
import matplotlib.pyplot as plt
from clims_lib import plots
plots.set_up()
_ = plots.legend_of(["boat"])
axis = plt.figure().gca()
axis.plot([1, 2])
axis.set(xlabel="step", ylabel="loss");"""
    notebook = new_notebook(cells=[new_code_cell(code)])
    where = {"metadata": {"path": root}}
    NotebookClient(notebook, kernel_name="python3", resources=where).execute()
    found = [
        output.metadata["image/png"]["alt"]
        for output in notebook.cells[0].outputs
        if "image/png" in output.data
    ]
    assert found == ["boat", "step; loss"]
