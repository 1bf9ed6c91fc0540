"""Drawings can be read: nothing overlaps, arrows end at boxes, and they need nothing but code."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.patches import FancyBboxPatch
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from clims_lib import plots, schematics
from clims_lib.schematics import examples
from clims_lib.schematics.boxes import Board

NAMES = [name for name in schematics.__all__ if name != "first_screen"]


def three_cases():
    scenes = [examples.scene(noun) for noun in ("train", "boat", "person")]
    pictures = [scene.image.transpose(2, 0, 1) for scene in scenes]
    masks = [scene.mask() for scene in scenes]
    return pictures, [np.full_like(mask, 3) for mask in masks], masks


DRAWINGS = {name: getattr(schematics, name) for name in NAMES}
DRAWINGS["first_screen"] = lambda: schematics.first_screen(*three_cases())


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plots.plt.close("all")


@pytest.fixture(params=DRAWINGS)
def drawn(request, monkeypatch):
    """(figure, points of its arrows, corners of its lines) of each drawing."""
    arrows, lines = [], []
    for name, found in (("arrow", arrows), ("line", lines)):
        original = getattr(Board, name)

        def noted(self, *points, _original=original, _found=found, **more):
            _found.append(points)
            return _original(self, *points, **more)

        monkeypatch.setattr(Board, name, noted)
    figure = DRAWINGS[request.param]()
    figure.canvas.draw()
    return figure, arrows, lines


def texts(figure) -> dict[Text, Bbox]:
    """Where words stand, in inches."""
    scale = 1 / figure.dpi
    found = [t for t in figure.axes[0].texts if t.get_text()]
    return {t: Bbox(t.get_window_extent().get_points() * scale) for t in found}


def pictures(figure) -> list[Bbox]:
    extents = (image.get_extent() for image in figure.axes[0].images)
    return [Bbox([[left, low], [right, high]]) for left, right, low, high in extents]


def boxes(figure) -> list[Bbox]:
    """Of boxes and plain rectangles, but the board itself."""
    found = [p for p in figure.axes[0].patches if type(p).__name__ != "FancyArrowPatch"]
    return [
        Bbox.from_bounds(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in found[1:]
    ]


def overlap(a: Bbox, b: Bbox) -> float:
    """How far two boxes reach into each other, in inches; 0: not at all."""
    both = Bbox.intersection(a, b)
    return 0.0 if both is None else min(both.width, both.height)


def test_all_eight_are_there():
    wanted = {"pipeline", "cam", "clims", "puzzle", "walk", "mean_field", "cct", "papermill"}
    assert set(NAMES) == wanted


def test_words_are_inside_and_never_on_each_other(drawn):
    figure, _, _ = drawn
    canvas = Bbox.from_bounds(0, 0, *figure.get_size_inches())
    found = texts(figure)
    for text, place in found.items():
        assert canvas.containsx(place.x0) and canvas.containsx(place.x1), text
        assert canvas.containsy(place.y0) and canvas.containsy(place.y1), text
        assert text.get_fontsize() >= 9, text
    assert figure.get_figwidth() == 9
    for (a, at_a), (b, at_b) in combinations(found.items(), 2):
        assert overlap(at_a, at_b) < 0.01, (a, b)  # a pixel: lines of a text touch


def test_words_fit_their_boxes_and_stand_beside_pictures(drawn):
    figure, _, _ = drawn
    around = [p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]
    for text, place in texts(figure).items():
        x, y = (place.x0 + place.x1) / 2, (place.y0 + place.y1) / 2
        for patch in around:
            box = Bbox.from_bounds(*patch.get_bbox().bounds)
            if box.contains(x, y):
                assert box.x0 + 0.04 < place.x0 and place.x1 < box.x1 - 0.04, text
                assert box.y0 + 0.04 < place.y0 and place.y1 < box.y1 - 0.04, text
        if text.get_text() != "×":  # marks a pixel
            assert all(overlap(place, image) == 0 for image in pictures(figure)), text


def test_arrows_end_at_boxes_and_cross_no_words(drawn):
    figure, arrows, lines = drawn
    places = [*boxes(figure), *pictures(figure)]
    assert len(arrows) >= 5
    for points in arrows:
        x, y = points[-1]
        level = points[-2][1] == y
        edges = [(p.x0, p.x1, p.y0, p.y1) if level else (p.y0, p.y1, p.x0, p.x1) for p in places]
        along, across = (x, y) if level else (y, x)
        at = [
            min(abs(along - low), abs(along - high)) < 0.01 and first < across < last
            for low, high, first, last in edges
        ]
        assert any(at), points
        assert all(a[0] == b[0] or a[1] == b[1] for a, b in zip(points, points[1:], strict=False))
        assert np.hypot(*np.subtract(points[-1], points[-2])) > 0.12, points  # longer than its tip
    for points in (*arrows, *lines):
        for text, place in texts(figure).items():
            assert not Path(points).intersects_bbox(place, filled=False), (points, text)


@pytest.mark.parametrize("name", DRAWINGS)
def test_all_is_said_in_words(name):
    figure = DRAWINGS[name]()
    words = figure._repr_mimebundle_()[1]["image/png"]["alt"]
    assert words == figure.alt == plots.describe(figure)
    assert len(words.split()) > 30 and "  " not in words


@pytest.mark.parametrize("name", DRAWINGS)
def test_each_time_the_same_and_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = []
    for _ in range(2):
        examples.scene.cache_clear()
        figure = DRAWINGS[name]()
        figure.canvas.draw()
        drawn.append(np.asarray(figure.canvas.buffer_rgba()).copy())
    assert (drawn[0] == drawn[1]).all() and not list(tmp_path.iterdir())


def test_the_first_screen_makes_no_mask_up():
    assert len(schematics.first_screen().axes[0].images) == len(
        schematics.pipeline().axes[0].images
    )
    photos, cam, clims = three_cases()
    shown = schematics.first_screen(photos, cam, clims).axes[0].images[-9:]
    for i in range(3):
        picture, one, other = (np.asarray(image.get_array()) for image in shown[3 * i : 3 * i + 3])
        assert (picture == photos[i].transpose(1, 2, 0)).all()
        assert (one == plots.overlay(photos[i], cam[i])).all()
        assert (other == plots.overlay(photos[i], clims[i])).all()
    with pytest.raises(ValueError, match="train, boat, person"):
        schematics.first_screen(photos[:2], cam[:2], clims[:2])


def test_what_panels_show_of_the_library_is_true():
    """The CRF's mask is nearer to the train than the map's own, the leaking map leaks."""
    truth = examples.scene().mask() > 0

    def iou(mask):
        return (mask & truth).sum() / (mask | truth).sum()

    assert iou(examples.crf_mask(examples.tight()) > 0) > 0.8
    grounds = [thing.name for thing in examples.scene().things]
    rails = examples.scene().thing_map == grounds.index("railroad")
    leaks = [cam[rails].mean() for cam in (examples.leaking(), examples.tight())]
    assert leaks[0] > 2 * leaks[1]
