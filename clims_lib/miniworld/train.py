"""How trains of the MiniWorld look, from the side and from the front."""

import math
from collections.abc import Iterable

import numpy as np

from clims_lib.miniworld.drawing import DARK, GLASS, Colour, Pen, Point, colour, paint, pick, shade


def draw_train(pen: Pen, rng: np.random.Generator) -> None:
    """A train from the side (its locomotive one unit long) or, with a vanishing point, in front."""
    first, second = paint(rng), paint(rng)
    if pen.vanish is not None:
        _train_front(pen, rng, first, second)
        return
    kind = pick(rng, (_steam_engine, _locomotive, _carriage), (0.38, 0.37, 0.25))
    kind(pen, rng, -0.5, first, second)
    same = rng.random() < 0.5
    coach = first if same else second
    for i in range(int(rng.integers(0, 4))):
        u = -1.5 - 1.0 * i
        pen.box(u + 0.94, 0.1, u + 1.06, 0.15, DARK)
        wagon = _carriage if kind is not _steam_engine or rng.random() < 0.6 else _freight_wagon
        wagon(pen, rng, u, coach, first)


def _wheels(pen: Pen, us: Iterable[float], radius: float, rim: Colour) -> None:
    for u in us:
        pen.ellipse(u, radius, radius, radius, DARK)
        pen.ellipse(u, radius, radius * 0.55, radius * 0.55, rim)


def _steam_engine(pen: Pen, rng: np.random.Generator, u: float, fill: Colour, trim: Colour) -> None:
    dark = shade(fill, 0.6)
    pen.box(u + 0.02, 0.1, u + 0.96, 0.18, shade(trim, 0.6))
    pen.box(u + 0.3, 0.17, u + 0.9, 0.36, fill)
    pen.box(u + 0.3, 0.17, u + 0.9, 0.22, dark)
    pen.ellipse(u + 0.9, 0.265, 0.035, 0.095, dark)
    for x in (0.45, 0.62):
        pen.box(u + x, 0.17, u + x + 0.02, 0.36, trim)
    pen.polygon(((u + 0.75, 0.35), (u + 0.83, 0.35), (u + 0.86, 0.53), (u + 0.72, 0.53)), DARK)
    pen.ellipse(u + 0.56, 0.37, 0.05, 0.055, trim)
    pen.box(u + 0.02, 0.15, u + 0.32, 0.5, trim if rng.random() < 0.5 else fill)
    pen.box(u + 0.08, 0.32, u + 0.25, 0.44, GLASS)
    pen.box(u - 0.02, 0.49, u + 0.36, 0.54, shade(trim, 0.5))
    pen.polygon(((u + 0.9, 0.14), (u + 1.0, 0.03), (u + 0.88, 0.03)), (150, 40, 36))
    _wheels(pen, (u + 0.14, u + 0.38, u + 0.58), 0.095, shade(trim, 0.9))
    _wheels(pen, (u + 0.76, u + 0.89), 0.06, (140, 140, 140))
    pen.line(((u + 0.14, 0.1), (u + 0.6, 0.1)), 0.025, (180, 180, 184), round_ends=False)


def _locomotive(pen: Pen, rng: np.random.Generator, u: float, fill: Colour, trim: Colour) -> None:
    slope = rng.uniform(0.03, 0.2)
    roof = rng.uniform(0.42, 0.5)
    pen.box(u + 0.03, 0.06, u + 0.95, 0.13, DARK)
    _wheels(pen, (u + 0.13, u + 0.27, u + 0.7, u + 0.84), 0.065, (130, 130, 134))
    pen.polygon(
        ((u, 0.11), (u + 1.0, 0.11), (u + 1.0, 0.22), (u + 1.0 - slope, roof), (u, roof)), fill
    )
    pen.box(u, 0.17, u + 0.99, 0.21, trim)
    pen.box(u, roof - 0.01, u + 0.98 - slope, roof + 0.03, shade(fill, 0.5))
    pen.polygon(
        (
            (u + 0.83 - slope / 2, 0.28),
            (u + 0.97 - slope * 0.4, 0.28),
            (u + 0.97 - slope, roof - 0.04),
            (u + 0.83 - slope / 2, roof - 0.04),
        ),
        GLASS,
    )
    if rng.random() < 0.5:
        for x in np.arange(0.08, 0.62, 0.11):
            pen.box(u + x, 0.25, u + x + 0.06, 0.36, shade(fill, 0.55))
    else:
        pen.box(u + 0.08, 0.28, u + 0.22, 0.38, GLASS)
        pen.box(u + 0.3, 0.26, u + 0.6, 0.3, shade(trim, 1.2))
    pen.ellipse(u + 0.97, 0.16, 0.025, 0.03, (255, 240, 170))
    if rng.random() < 0.4:
        pen.line(((u + 0.25, roof), (u + 0.35, roof + 0.12), (u + 0.22, roof + 0.14)), 0.018, DARK)


def _carriage(pen: Pen, rng: np.random.Generator, u: float, fill: Colour, trim: Colour) -> None:
    pen.box(u + 0.05, 0.06, u + 0.93, 0.13, DARK)
    _wheels(pen, (u + 0.14, u + 0.26, u + 0.72, u + 0.84), 0.065, (130, 130, 134))
    pen.box(u + 0.01, 0.11, u + 0.98, 0.44, fill)
    pen.box(u, 0.43, u + 0.99, 0.48, shade(fill, 0.55))
    pen.box(u + 0.01, 0.2, u + 0.98, 0.23, trim)
    pane = (205, 225, 235) if rng.random() < 0.5 else GLASS
    for x in np.arange(0.07, 0.85, 0.125):
        pen.box(u + x, 0.28, u + x + 0.085, 0.38, pane)


def _freight_wagon(
    pen: Pen, rng: np.random.Generator, u: float, fill: Colour, trim: Colour
) -> None:
    load = paint(rng)
    _wheels(pen, (u + 0.18, u + 0.8), 0.07, (130, 130, 134))
    if rng.random() < 0.5:
        pen.ellipse(u + 0.5, 0.28, 0.46, 0.15, load)
        pen.box(u + 0.44, 0.4, u + 0.56, 0.47, shade(load, 0.6))
    else:
        pen.ellipse(u + 0.5, 0.34, 0.4, 0.09, colour(rng, (0.05, 0.12), (0.1, 0.5), (0.15, 0.5)))
        pen.polygon(((u + 0.08, 0.14), (u + 0.92, 0.14), (u + 0.98, 0.35), (u + 0.02, 0.35)), load)
        for x in np.arange(0.2, 0.9, 0.2):
            pen.box(u + x, 0.14, u + x + 0.02, 0.35, shade(load, 0.6))
    pen.box(u + 0.04, 0.1, u + 0.96, 0.15, DARK)


def _train_front(pen: Pen, rng: np.random.Generator, fill: Colour, trim: Colour) -> None:
    w, top = 0.3, rng.uniform(0.6, 0.74)
    assert pen.vanish is not None  # or the train would be seen from the side
    vu, vv = pen.vanish
    depth = rng.uniform(0.35, 0.75)

    def far(u: float, v: float, t: float) -> Point:
        return vu + (u - vu) * (1 - t), vv + (v - vv) * (1 - t)

    edge = math.copysign(w, vu) if abs(vu) > 0.02 else w
    side = shade(fill, 0.72)
    pen.polygon(((edge, 0.05), far(edge, 0.05, depth), far(edge, top, depth), (edge, top)), side)
    pen.polygon(
        (
            (-w, 0.05),
            (w, 0.05),
            far(w, 0.05, depth),
            far(w, top, depth),
            far(-w, top, depth),
            (-w, top),
        ),
        side,
    )
    pen.polygon(((-w, top), (w, top), far(w, top, depth), far(-w, top, depth)), shade(fill, 0.45))
    for t in np.arange(0.05, depth - 0.05, 0.09):
        pen.polygon(
            (
                far(edge, top * 0.5, t),
                far(edge, top * 0.5, t + 0.05),
                far(edge, top * 0.8, t + 0.05),
                far(edge, top * 0.8, t),
            ),
            GLASS,
        )
    for u in (-0.2, 0.2):
        pen.box(u - 0.04, 0, u + 0.04, 0.1, DARK)
    pen.polygon(
        (
            (-w, 0.06),
            (w, 0.06),
            (w, top - 0.08),
            (w - 0.07, top),
            (-w + 0.07, top),
            (-w, top - 0.08),
        ),
        fill,
    )
    if rng.random() < 0.3:  # a steam engine's round face
        pen.ellipse(0, top * 0.55, 0.25, 0.25, shade(fill, 0.5))
        pen.ellipse(0, top * 0.55, 0.2, 0.2, DARK)
        pen.ellipse(0, top * 0.55, 0.05, 0.05, (200, 190, 120))
        pen.box(-0.06, top - 0.02, 0.06, top + 0.14, DARK)
    else:
        split = 0.015 if rng.random() < 0.5 else -0.01
        pen.box(-w + 0.06, top * 0.52, -split, top * 0.84, GLASS)
        pen.box(split, top * 0.52, w - 0.06, top * 0.84, GLASS)
        pen.box(-w, top * 0.3, w, top * 0.4, trim)
    pen.box(-w, 0.06, w, 0.12, DARK)
    for u in (-w + 0.08, w - 0.08):
        pen.ellipse(u, top * 0.26, 0.04, 0.04, (255, 244, 180))
