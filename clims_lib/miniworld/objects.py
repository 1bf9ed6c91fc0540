"""How aeroplanes, cars and cows of the MiniWorld look."""

import numpy as np

from clims_lib.miniworld.drawing import DARK, GLASS, Colour, Pen, colour, paint, pick, shade


def draw_aeroplane(pen: Pen, rng: np.random.Generator) -> None:
    """An airliner or a propeller plane; one unit long, (0, 0) its middle."""
    body = pick(
        rng, ((238, 238, 242), paint(rng), colour(rng, saturation=(0, 0.1), value=(0.6, 0.8)))
    )
    accent, belly = paint(rng), shade(body, 0.78)
    small = rng.random() < 0.3
    r = 0.075 if small else 0.062
    sweep = 0.05 if small else rng.uniform(0.12, 0.22)
    span = rng.uniform(0.26, 0.36)
    wing = shade(body, rng.uniform(0.6, 0.85))
    far = rng.uniform(0.45, 0.8) * span
    pen.polygon(
        ((0.02, 0), (0.14, 0), (0.04 - sweep, far), (-0.03 - sweep, far)), shade(wing, 0.85)
    )
    pen.polygon(((-0.46, 0.02), (-0.36, 0.02), (-0.44, 0.11), (-0.5, 0.11)), shade(wing, 0.85))
    fin = rng.uniform(0.18, 0.25)
    pen.polygon(((-0.5, 0.02), (-0.5, fin), (-0.43, fin), (-0.3, r * 0.8)), accent)
    hull = (
        (-0.5, 0.03),
        (-0.42, -r * 0.4),
        (-0.28, -r),
        (0.32, -r),
        (0.42, -r * 0.8),
        (0.5, -r * 0.15),
        (0.45, r * 0.6),
        (0.36, r),
        (-0.3, r),
        (-0.5, 0.055),
    )
    pen.polygon(hull, body)
    pen.polygon(
        ((-0.42, -r * 0.4), (-0.28, -r), (0.32, -r), (0.42, -r * 0.8), (0.46, -r * 0.45)), belly
    )
    if rng.random() < 0.6:
        pen.box(-0.42, -r * 0.35, 0.46, r * 0.02, accent)
    pen.polygon(((0.36, r * 0.85), (0.42, r * 0.75), (0.46, r * 0.3), (0.38, r * 0.3)), GLASS)
    for u in np.arange(-0.28, 0.32, 0.12 if small else 0.055):
        pen.box(u, r * 0.25, u + 0.028, r * 0.7, GLASS)
    pen.polygon(
        ((0.0, -r * 0.5), (0.16, -r * 0.5), (0.0 - sweep, -span), (-0.08 - sweep, -span)), wing
    )
    pen.polygon(((-0.46, 0), (-0.35, 0), (-0.45, -0.12), (-0.51, -0.12)), wing)
    if small:
        pen.line(((0.51, -0.13), (0.51, 0.13)), 0.022, DARK, round_ends=False)
        pen.ellipse(0.5, 0, 0.025, 0.03, accent)
    else:
        pen.ellipse(0.09 - sweep / 2, -span * 0.45, 0.06, 0.03, shade(accent, 0.8))
        pen.ellipse(0.14 - sweep / 2, -span * 0.45, 0.012, 0.025, DARK)


# name: where the cabin meets the body (from, to), the roof (from, to), its height
_CARS = {
    "saloon": (-0.35, 0.27, -0.2, 0.12, 0.41),
    "hatchback": (-0.47, 0.26, -0.37, 0.1, 0.44),
    "van": (-0.48, 0.4, -0.47, 0.22, 0.56),
    "pickup": (-0.1, 0.26, -0.07, 0.13, 0.45),
    "sports": (-0.32, 0.2, -0.15, 0.04, 0.34),
    "jeep": (-0.47, 0.25, -0.44, 0.15, 0.5),
}


def draw_car(pen: Pen, rng: np.random.Generator) -> None:
    """A car seen from the side or the front; one unit long, (0, 0) between its wheels."""
    fill = paint(rng)
    if rng.random() < 0.25:
        _car_front(pen, rng, fill)
        return
    back, front, roof_back, roof_front, roof = _CARS[pick(rng, tuple(_CARS))]
    belt = 0.28
    for u in (-0.29, 0.3):
        pen.ellipse(u, 0.1, 0.1, 0.1, DARK)
    pen.polygon(
        ((back, belt - 0.02), (front, belt - 0.02), (roof_front, roof), (roof_back, roof)), fill
    )
    pen.polygon(
        (
            (-0.5, 0.11),
            (-0.5, 0.25),
            (-0.47, belt),
            (front, belt),
            (0.44, 0.25),
            (0.5, 0.2),
            (0.5, 0.11),
        ),
        fill,
    )
    pen.box(-0.5, 0.09, 0.5, 0.13, shade(fill, 0.6))
    low, high, middle = belt + 0.005, roof - 0.035, (back + front) / 2 - 0.03
    glass = GLASS if rng.random() < 0.7 else (150, 190, 210)

    def edge(a: float, b: float, v: float, inset: float) -> float:
        return a + (b - a) * (v - belt) / (roof - belt) + inset

    pen.polygon(
        (
            (edge(back, roof_back, low, 0.04), low),
            (middle - 0.015, low),
            (middle - 0.015, high),
            (edge(back, roof_back, high, 0.03), high),
        ),
        glass,
    )
    pen.polygon(
        (
            (middle + 0.02, low),
            (edge(front, roof_front, low, -0.05), low),
            (edge(front, roof_front, high, -0.035), high),
            (middle + 0.02, high),
        ),
        glass,
    )
    pen.line(((middle, 0.14), (middle, belt)), 0.012, shade(fill, 0.6), round_ends=False)
    pen.box(middle - 0.1, 0.225, middle - 0.04, 0.245, shade(fill, 0.5))
    for u in (-0.29, 0.3):
        pen.ellipse(u, 0.1, 0.125, 0.115, shade(fill, 0.45))
        pen.ellipse(u, 0.1, 0.1, 0.1, DARK)
        pen.ellipse(u, 0.1, 0.05, 0.05, (170, 172, 178))
    pen.ellipse(0.475, 0.21, 0.03, 0.035, (255, 240, 170))
    pen.box(-0.5, 0.19, -0.47, 0.25, (190, 30, 30))
    if rng.random() < 0.12:  # taxi sign or roof box
        pen.box(roof_back + 0.06, roof, roof_front - 0.04, roof + 0.05, paint(rng))


def _car_front(pen: Pen, rng: np.random.Generator, fill: Colour) -> None:
    w, roof = rng.uniform(0.3, 0.35), rng.uniform(0.46, 0.58)
    for u in (-w + 0.06, w - 0.06):
        pen.box(u - 0.06, 0, u + 0.06, 0.16, DARK)
    pen.polygon(
        ((-w, 0.08), (w, 0.08), (w, 0.28), (w - 0.05, 0.33), (-w + 0.05, 0.33), (-w, 0.28)), fill
    )
    pen.polygon(((-w + 0.03, 0.32), (w - 0.03, 0.32), (w - 0.1, roof), (-w + 0.1, roof)), fill)
    pen.polygon(
        ((-w + 0.08, 0.34), (w - 0.08, 0.34), (w - 0.13, roof - 0.04), (-w + 0.13, roof - 0.04)),
        GLASS,
    )
    pen.box(-w * 0.55, 0.19, w * 0.55, 0.26, shade(fill, 0.4))
    pen.box(-w, 0.08, w, 0.13, shade(fill, 0.55))
    pen.box(-0.08, 0.1, 0.08, 0.15, (230, 230, 220))
    light = (255, 240, 170) if rng.random() < 0.6 else (200, 40, 40)
    for u in (-w * 0.78, w * 0.78):
        pen.ellipse(u, 0.23, 0.05, 0.04, light)
        pen.ellipse(u * 1.36, 0.36, 0.035, 0.025, shade(fill, 0.7))


def draw_cow(pen: Pen, rng: np.random.Generator) -> None:
    """A cow that stands or grazes; one unit long, (0, 0) between its feet."""
    coat, patch = pick(
        rng,
        (
            ((242, 238, 230), (36, 32, 32)),
            ((242, 238, 230), (128, 74, 42)),
            ((120, 70, 40), (238, 228, 214)),
            ((44, 38, 38), (228, 222, 214)),
            ((176, 120, 72), (92, 56, 34)),
            ((214, 186, 146), (150, 104, 66)),
        ),
    )
    back, dark = rng.uniform(0.6, 0.68), shade(coat, 0.72)
    stride = rng.uniform(0.0, 0.07)
    legs = (
        (-0.3 + stride, 0.85),
        (0.17 - stride, 0.85),
        (-0.36 - stride, 1.0),
        (0.22 + stride, 1.0),
    )
    for u, light in legs:
        hip = -0.33 if u < 0 else 0.2
        pen.line(((hip, 0.33), (u, 0.04)), 0.085, shade(coat, 0.75 * light), round_ends=False)
        pen.box(u - 0.05, 0, u + 0.05, 0.05, DARK)
    pen.polygon(
        (
            (-0.44, 0.4),
            (-0.43, back - 0.04),
            (-0.36, back),
            (0.15, back - 0.02),
            (0.3, back + 0.02),
            (0.33, 0.46),
            (0.24, 0.28),
            (-0.1, 0.22),
            (-0.38, 0.28),
        ),
        coat,
    )
    pen.polygon(((-0.4, 0.33), (0.26, 0.33), (0.24, 0.28), (-0.1, 0.22), (-0.38, 0.28)), dark)
    if rng.random() < 0.7:
        pen.spots(
            [
                (
                    rng.uniform(-0.42, 0.3),
                    rng.uniform(0.3, back),
                    rng.uniform(0.05, 0.13),
                    rng.uniform(0.05, 0.12),
                )
                for _ in range(rng.integers(3, 7))
            ],
            patch,
        )
    pen.ellipse(-0.2, 0.25, 0.07, 0.045, (226, 170, 160))
    pen.line(((-0.43, back - 0.04), (-0.49, 0.45), (-0.47, 0.26)), 0.025, dark)
    pen.ellipse(-0.47, 0.24, 0.025, 0.05, patch)
    grazing = rng.random() < 0.35
    hu, hv = (0.5, 0.2) if grazing else (0.48, back + rng.uniform(0.02, 0.1))
    pen.polygon(
        ((0.18, back - 0.03), (0.28, 0.36), (hu - 0.02, hv - 0.07), (hu - 0.04, hv + 0.1)), coat
    )
    _cow_head(pen, rng, hu, hv, coat, patch, grazing)


def _cow_head(
    pen: Pen,
    rng: np.random.Generator,
    u: float,
    v: float,
    coat: Colour,
    patch: Colour,
    grazing: bool,
) -> None:
    fill = coat if rng.random() < 0.6 else patch
    tip = (u + 0.07, v - 0.14) if grazing else (u + 0.15, v - 0.06)
    pen.line(((u, v), tip), 0.14, fill)
    pen.ellipse(*tip, 0.06, 0.06, (226, 176, 164))
    pen.ellipse(tip[0] + 0.03, tip[1], 0.012, 0.012, DARK)
    pen.ellipse(u - 0.07, v + 0.06, 0.06, 0.03, shade(fill, 0.7))
    if rng.random() < 0.7:
        for du in (-0.02, 0.05):
            pen.line(((u + du, v + 0.05), (u + du + 0.02, v + 0.15)), 0.026, (222, 212, 186))
    pen.ellipse(u + 0.045, v + 0.02, 0.018, 0.018, DARK)
