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


def test_spreads_are_bars_around_the_means():
    lines = {"a": {0.0: (0.4, 0.1), 8.0: (0.6, 0.0)}, "b": {0.0: (0.2, 0.0)}}
    axis = plots.spreads(lines, "weight", "mIoU").axes[0]
    first, second = (container[0].get_xydata().tolist() for container in axis.containers)
    assert first == [[0, 0.4], [8, 0.6]] and second == [[0, 0.2]]
    bar = axis.containers[0][2][0].get_segments()[0]
    assert np.allclose(bar, [[0, 0.3], [0, 0.5]])
    axis = plots.spreads({"a": {'["sky"]': (0.4, 0.1), '["sea"]': (0.6, 0.0)}}, "x", "y").axes[0]
    assert [t.get_text() for t in axis.get_xticklabels()] == ['["sky"]', '["sea"]']


def test_a_picture_of_the_wrong_shape_says_so():
    with pytest.raises(ValueError, match="3, H, W"):
        plots.picture(np.zeros((4, 4)))


def test_signed_maps_are_white_at_zero_and_tables_leave_nan_empty():
    rgb = plots.signed([[0.0, 2.0], [-2.0, 0.0]])
    assert rgb[0, 0].min() > 0.95 and rgb[0, 1, 0] > rgb[0, 1, 2] and rgb[1, 0, 2] > rgb[1, 0, 0]
    texts = plots.heat_table([[1.0, float("nan")]], ["r"], ["a", "b"], form=".1f").axes[0].texts
    assert [t.get_text() for t in texts] == ["1.0"]


def test_a_map_over_a_picture_keeps_its_size():
    black = np.zeros((3, 2, 2), np.uint8)
    shown = plots.map_over(black, np.array([[0.0, 1.0]] * 2))
    assert shown.shape == (2, 2, 3) and shown[0, 1].sum() > shown[0, 0].sum()


def test_rankings_shades_and_points():
    axis = plots.ranked({"a": (40.0, 1.0), "b": (60.0, 0.0)}, "mIoU").axes[0]
    assert [t.get_text().strip() for t in axis.texts] == ["40.0", "60.0"]
    dark, bright = plots.heatmap([[-1.0, 2.0]])[0].sum(-1)
    assert dark < bright
    shown = plots.points([1.0, 2.0], [3.0, -4.0], "x", "y").axes[0].collections[0].get_offsets()
    assert np.asarray(shown).tolist() == [[1, 3], [2, -4]]
