"""Figures show what they were given: checked on the artists, not on pixels."""

import numpy as np
import pytest

from clims_lib import plots


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plots.plt.close("all")


def test_masks_have_the_shown_colours():
    mask = np.array([[0, 2], [1, 255]], np.uint8)
    expected = [[[0, 0, 0], [235, 177, 0]], [[0, 78, 235], [255, 255, 255]]]
    assert plots.coloured(mask).tolist() == expected
    image = np.full((3, 2, 2), 100, np.uint8)
    assert plots.overlay(image, mask, 0.5)[0].tolist() == [[100, 100, 100], [167, 138, 50]]


def test_oracle_chart_names_the_lowest():
    rows = [{"class": "train", "mask": m, "loss": v} for m, v in (("true", 2.0), ("whole", 3.0))]
    assert plots.oracle_chart(rows).axes[0].get_title() == "train: lowest at true"


def test_bars_leave_gaps_and_grids_have_a_cell_each():
    figure = plots.bars({"a": {"x": 1.0, "y": None}, "b": {"x": 2.0}}, "score")
    assert [p.get_height() for p in figure.axes[0].patches][0] == 1.0
    cells = [[np.zeros((2, 2, 3))] * 3] * 2
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
    axis = plots.ranked({"a": (40.0, 1.0), "b": (60.0, 0.0), "c": (5, 0, 3)}, "mIoU").axes[0]
    assert [t.get_text().strip() for t in axis.texts] == ["40.0", "60.0 (1 seed)", "5.0"]
    dark, bright = plots.heatmap([[-1.0, 2.0]])[0].sum(-1)
    assert dark < bright
    shown = plots.points([1.0, 2.0], [3.0, -4.0], "x", "y").axes[0].collections[0].get_offsets()
    assert np.asarray(shown).tolist() == [[1, 3], [2, -4]]


def shown(axis):
    """Pixels of its smaller side that a panel has, at a notebook's 100 dots an inch."""
    box = axis.get_window_extent()
    return 100 * min(box.width, box.height) / axis.figure.dpi


@pytest.mark.parametrize("size", [(64, 64), (40, 60), (60, 40)])
@pytest.mark.parametrize("count", [3, 9, 12, 19])
@pytest.mark.parametrize("kind", ["gallery", "grid"])
def test_no_panel_is_too_small_to_see(kind, count, size):
    """Also beside long titles and a colour bar: what does not fit goes on below."""
    cells = [plots.heatmap(np.zeros(size))] * count
    names = [f"epoch {i} of the training" for i in range(count)]
    if kind == "gallery":
        figure = plots.gallery(cells, names, count)
    else:
        figure = plots.grid([cells, cells], ["picture of a train", "map"], names)
    figure.draw_without_rendering()
    panels = [axis for axis in figure.axes if axis.images]
    assert len(panels) == (count if kind == "gallery" else 2 * count)
    assert min(map(shown, panels)) >= 90
    titles = [axis.get_title().replace("\n", " ") for axis in panels]
    assert sorted(filter(None, titles)) == sorted(names)  # each above its column, once


def test_rows_that_go_on_below_keep_their_order():
    cells = [np.full((2, 2, 3), i / 10) for i in range(10)]
    figure = plots.grid([cells], ["map"], [str(i) for i in range(10)])
    panels = [axis for axis in figure.axes if axis.images]
    assert [round(float(axis.images[0].get_array()[0, 0, 0]), 1) for axis in panels] == [
        i / 10 for i in range(10)
    ]
    assert [axis.get_ylabel() for axis in panels].count("map") == 2


def ends(figure):
    """The texts at the colour bars of a figure."""
    figure.draw_without_rendering()
    bars = [axis for axis in figure.axes if not axis.images and axis.get_label() == "<colorbar>"]
    return [[text.get_text() for text in bar.get_yticklabels()] for bar in bars]


def test_numbers_have_a_colour_bar_and_pictures_none():
    plain, heat = np.zeros((4, 4, 3)), plots.heatmap(np.eye(4))
    assert ends(plots.gallery([plain, plain])) == []
    assert ends(plots.gallery([plain, heat])) == [["0", "0.5", "1"]]
    assert ends(plots.grid([[plain, plots.map_over(np.zeros((3, 4, 4)), np.eye(4))]], ["a"])) == [
        ["0", "0.5", "1"]
    ]
    twice = [plots.signed(np.eye(4), 0.2), plots.signed(-np.eye(4), 0.2)]
    assert ends(plots.grid([twice], ["pull"])) == [["-0.2", "0", "0.2"]]
    unlike = [plots.signed(np.eye(4)), plots.signed(3 * np.eye(4))]
    assert ends(plots.grid([[heat, *unlike]], ["pull"])) == [["0", "0.5", "1"], ["−", "0", "+"]]
    assert ends(plots.gallery([np.eye(4), 3 * np.eye(4)])) == [["0", "1.5", "3"]]
    assert ends(plots.gallery([255 * heat, heat[:2]])) == []  # no longer the same numbers


def test_tables_with_negative_numbers_are_white_at_zero():
    figure = plots.heat_table([[-1.0, 0.0, 0.5]], ["r"], ["a", "b", "c"], form=".1f")
    image = figure.axes[0].images[0]
    below, zero, above = image.to_rgba([-1.0, 0.0, 0.5])[:, :3]
    assert zero.min() > 0.95 and below[2] > below[0] and above[0] > above[2]
    assert ends_of_table(figure) == ["-1.0", "0.0", "1.0"]
    texts = figure.axes[0].texts
    assert [t.get_color() for t in texts[:2]] == ["white", "black"]
    assert ends_of_table(plots.heat_table([[2.0, 4.0]], ["r"], ["a", "b"], form=".0f")) == [
        "2",
        "3",
        "4",
    ]


def ends_of_table(figure):
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.axes[1].get_yticklabels()]


def test_an_outline_lies_at_the_objects_border():
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 3:7], mask[7, 0] = 4, 255  # an ignored pixel is no object
    grey = np.full((4, 4, 3), 120, np.uint8)  # coarser than the mask
    drawn = plots.outline(grey, mask, 64)
    assert drawn.shape == (64, 64, 3) and drawn.dtype == np.uint8
    changed = (drawn != 120).any(-1)
    expected = np.zeros((64, 64), bool)
    expected[14:50, 22:58] = True
    expected[18:46, 26:54] = False
    assert changed[20, 24] and drawn[20, 23].tolist() == drawn[20, 24].tolist() == [255] * 3
    assert drawn[20, 22].tolist() == drawn[20, 25].tolist() == [0] * 3
    corners = [(r, c) for r in (14, 15, 48, 49) for c in (22, 23, 56, 57)]
    for r, c in corners:  # outer corners stay open by a pixel or two
        expected[r, c] = changed[r, c]
    assert (changed == expected).all()
    heat = plots.outline(plots.heatmap(np.zeros((4, 4))), mask, 64)
    assert heat.max() == 1.0 and ends(plots.gallery([heat])) == [["0", "0.5", "1"]]


def test_one_seed_has_a_hollow_dot_and_no_bar():
    lines = {
        "cam": {0: (0.4, 0.1), 1: (0.6, 0.0)},
        "clims": {0: (0.5, None), 1: (0.7, 0.0, 1)},
        "cct": {0: (0.2, 0.0, 3), 1: (0.3, float("nan"))},
    }
    axis = plots.spreads(lines, "weight", "mIoU").axes[0]
    bars = [container[2][0].get_segments() for container in axis.containers]
    drawn = [[len(bar) > 0 and bool(np.isfinite(bar).all()) for bar in some] for some in bars]
    assert [sum(some) for some in drawn] == [1, 0, 1]
    hollow = [line for line in axis.lines if line.get_markerfacecolor() == "white"]
    assert sorted(float(line.get_ydata()[0]) for line in hollow) == [0.3, 0.5, 0.6, 0.7]
    assert [t.get_text() for t in axis.texts] == ["1 seed"] * 2
    legend = [t.get_text() for t in axis.get_legend().get_texts()]
    assert legend == ["cam", "clims (1 seed)", "cct"]


def test_methods_keep_their_colours_from_chart_to_chart():
    colours = plots.METHOD_COLOURS
    axis = plots.curves({"chance": ([0], [1]), "CLIMS": ([0], [2])}, "x", "y").axes[0]
    assert [line.get_color() for line in axis.lines] == [plots.NEUTRAL, colours["clims"]]
    axis = plots.bars({"clims": {"x": 1.0}, "cam": {"x": 1.0}}, "IoU").axes[0]
    handles = axis.get_legend().get_patches()
    faces = [plots.plt.matplotlib.colors.to_hex(patch.get_facecolor()).upper() for patch in handles]
    assert faces == [colours["clims"], colours["cam"]]
    axis = plots.ranked({"cam": (1.0, 0.1), "clims_crf": (2.0, 0.1)}, "mIoU").axes[0]
    faces = [plots.plt.matplotlib.colors.to_hex(p.get_facecolor()).upper() for p in axis.patches]
    assert faces == [colours["cam"], colours["clims_crf"]]
    axis = plots.spreads({"cct": {0: (1.0, 0.1)}}, "x", "y").axes[0]
    assert axis.lines[0].get_color() == colours["cct"]


def test_a_legend_of_many_classes_goes_on_below():
    names = [f"class {i}" for i in range(20)]
    figure = plots.legend_of(names)
    figure.draw_without_rendering()
    legend = figure.axes[0].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == names
    canvas, box = figure.bbox, legend.get_window_extent()
    assert (
        canvas.x0 <= box.x0 and box.x1 <= canvas.x1 and canvas.y0 <= box.y0 and box.y1 <= canvas.y1
    )
