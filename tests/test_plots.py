"""Figures show what they were given: checked on the artists, not on pixels."""

import numpy as np
import pytest

from clims_lib import plots


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plots.plt.close("all")


def test_masks_have_vocs_colours():
    mask = np.array([[0, 1], [15, 255]], np.uint8)
    expected = [[[0, 0, 0], [128, 0, 0]], [[192, 128, 128], [224, 224, 192]]]
    assert plots.coloured(mask).tolist() == expected
    image = np.full((3, 2, 2), 100, np.uint8)
    assert plots.overlay(image, mask, 0.5)[0].tolist() == [[100, 100, 100], [114, 50, 50]]


def test_oracle_chart_names_the_lowest():
    rows = [{"class": "train", "mask": m, "loss": v} for m, v in (("true", 2.0), ("whole", 3.0))]
    assert plots.oracle_chart(rows).axes[0].get_title() == "train: lowest at true"


def test_bars_leave_gaps_and_grids_have_a_cell_each():
    figure = plots.bars({"a": {"x": 1.0, "y": None}, "b": {"x": 2.0}}, "score")
    assert [p.get_height() for p in figure.axes[0].patches][0] == 1.0
    cells = [[np.zeros((2, 2))] * 3] * 2
    assert len(plots.grid(cells, ["p", "q"]).axes) == 6


def test_a_picture_of_the_wrong_shape_says_so():
    with pytest.raises(ValueError, match="3, H, W"):
        plots.picture(np.zeros((4, 4)))
