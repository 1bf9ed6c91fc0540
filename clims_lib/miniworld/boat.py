"""How rowing, sailing and motor boats and ships of the MiniWorld look."""

import numpy as np

from clims_lib.miniworld.drawing import DARK, GLASS, Colour, Pen, colour, paint, pick, shade


def draw_boat(pen: Pen, rng: np.random.Generator) -> None:
    """A rowing, sailing, motor boat or a ship; one unit long, (0, 0) under its keel."""
    hull = pick(
        rng, ((240, 238, 232), paint(rng), colour(rng, (0.03, 0.1), (0.4, 0.7), (0.3, 0.6)))
    )
    kind = pick(rng, (_row_boat, _sail_boat, _motor_boat, _ship), (0.22, 0.3, 0.23, 0.25))
    kind(pen, rng, hull)


def _hull(pen: Pen, top: float, fill: Colour, rng: np.random.Generator, bow: float = 0.1) -> None:
    pen.polygon(((-0.42, 0), (0.34, 0), (0.5, top + bow * 0.5), (-0.48, top)), fill)
    pen.polygon(
        ((-0.42, 0), (0.34, 0), (0.4, top * 0.35), (-0.44, top * 0.35)),
        pick(rng, (shade(fill, 0.7), paint(rng))),
    )
    pen.line(((-0.48, top), (0.5, top + bow * 0.5)), 0.022, shade(fill, 0.6), round_ends=False)


def _row_boat(pen: Pen, rng: np.random.Generator, hull: Colour) -> None:
    pen.grow(1.3)
    top = rng.uniform(0.2, 0.27)
    wood = colour(rng, (0.06, 0.1), (0.4, 0.7), (0.3, 0.6))
    pen.ellipse(0, top, 0.47, 0.05, shade(wood, 0.6))
    _hull(pen, top, hull, rng, bow=0.12)
    for u in (-0.2, 0.1):
        pen.box(u, top - 0.01, u + 0.1, top + 0.025, wood)
    for lean in (-0.3, 0.12)[: 1 + int(rng.random() < 0.6)]:
        pen.line(((0.05 + lean * 0.3, top + 0.14), (lean, 0.0)), 0.03, wood)
        pen.ellipse(lean, 0.02, 0.03, 0.06, shade(wood, 1.2))


def _sail_boat(pen: Pen, rng: np.random.Generator, hull: Colour) -> None:
    pen.grow(0.85)
    top, mast = rng.uniform(0.15, 0.2), rng.uniform(0.95, 1.25)
    sail = pick(rng, ((245, 242, 230), paint(rng), colour(rng, (0, 0.14), (0.3, 0.7), (0.5, 0.9))))
    foot, m = top + 0.07, rng.uniform(-0.05, 0.1)
    pen.line(((m, top), (m, mast)), 0.03, (90, 70, 52), round_ends=False)
    pen.polygon(((m - 0.02, foot), (m - 0.02, mast - 0.02), (-0.44, foot + 0.02)), sail)
    if rng.random() < 0.4:  # a stripe across the main sail
        pen.polygon(
            (
                (m - 0.02, foot + 0.3),
                (m - 0.02, foot + 0.4),
                (m - 0.22, foot + 0.4),
                (m - 0.27, foot + 0.3),
            ),
            paint(rng),
        )
    if rng.random() < 0.75:
        jib = sail if rng.random() < 0.6 else paint(rng)
        pen.polygon(
            ((m + 0.03, foot), (m + 0.03, mast * rng.uniform(0.75, 0.95)), (0.46, foot)),
            shade(jib, 0.88),
        )
    _hull(pen, top, hull, rng)


def _motor_boat(pen: Pen, rng: np.random.Generator, hull: Colour) -> None:
    pen.grow(1.15)
    top = rng.uniform(0.19, 0.25)
    cabin = pick(rng, ((240, 240, 240), paint(rng)))
    high = top + rng.uniform(0.14, 0.22)
    pen.polygon(((-0.3, top), (0.18, top), (0.06, high), (-0.26, high)), cabin)
    for a, b in ((-0.24, -0.13), (-0.1, 0.05)):
        pen.polygon(
            ((a, top + 0.05), (b + 0.03, top + 0.05), (b, high - 0.03), (a, high - 0.03)), GLASS
        )
    pen.box(-0.32, high, 0.1, high + 0.025, shade(cabin, 0.75))
    if rng.random() < 0.5:
        pen.line(((-0.2, high), (-0.2, high + 0.16)), 0.015, DARK, round_ends=False)
        pen.polygon(((-0.2, high + 0.16), (-0.2, high + 0.09), (-0.33, high + 0.12)), paint(rng))
    _hull(pen, top, hull, rng, bow=0.14)
    pen.box(-0.52, 0.06, -0.46, top + 0.03, DARK)


def _ship(pen: Pen, rng: np.random.Generator, hull: Colour) -> None:
    top = rng.uniform(0.18, 0.24)
    house = pick(rng, ((242, 242, 238), paint(rng)))
    back, v = rng.uniform(-0.42, -0.25), top
    width = rng.uniform(0.4, 0.65)
    for _ in range(int(rng.integers(1, 4))):
        pen.box(back, v, back + width, v + 0.1, house)
        for u in np.arange(back + 0.03, back + width - 0.04, 0.075):
            pen.box(u, v + 0.035, u + 0.035, v + 0.072, GLASS)
        pen.box(back - 0.01, v + 0.095, back + width + 0.01, v + 0.115, shade(house, 0.7))
        v, back, width = v + 0.11, back + 0.06, width - 0.13
    funnel = paint(rng)
    for u in (back + 0.05, back + 0.2)[: int(rng.integers(1, 3))]:
        pen.polygon(((u, v), (u + 0.1, v), (u + 0.09, v + 0.17), (u, v + 0.17)), funnel)
        pen.box(u, v + 0.11, u + 0.09, v + 0.17, DARK)
    if rng.random() < 0.5:
        pen.line(((0.3, top), (0.3, top + 0.35)), 0.02, shade(house, 0.5), round_ends=False)
    _hull(pen, top, hull, rng, bow=0.16)
    if rng.random() < 0.5:
        for u in np.arange(-0.36, 0.36, 0.12):
            pen.ellipse(u, top * 0.68, 0.018, 0.018, DARK)
