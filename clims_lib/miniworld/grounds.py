"""How the grounds, the skies and what stands behind the horizon of the MiniWorld look."""

import numpy as np
from PIL import Image, ImageDraw

from clims_lib.miniworld.drawing import (
    Colour,
    Layout,
    Point,
    circle,
    colour,
    grain,
    noise,
    paint,
    pick,
    shade,
    soft_mask,
)

BACKDROPS = ("trees", "hills", "buildings")


def _flat(fill: Colour, light: np.ndarray) -> np.ndarray:
    """One colour times (1 + light), (side, side, 3)."""
    return np.asarray(fill, np.float32) * (1 + light[..., None])


def _in_perspective(texture: np.ndarray, layout: Layout) -> np.ndarray:
    """Rows of the texture squeezed together towards the horizon."""
    side, top = layout.side, layout.horizon
    depth = (np.arange(side) - top).clip(0) / max(1, side - top)
    rows = side * 1.6 * depth / (depth + 0.6)
    return texture[np.minimum(rows, side - 1).astype(int)]


def sky(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    """A clear, cloudy, grey or evening sky, (side, side, 3) in 0..255."""
    side = layout.side
    kind = pick(rng, ("blue", "grey", "evening", "teal"), (0.64, 0.16, 0.12, 0.08))
    if kind == "grey":
        top = colour(rng, (0.55, 0.65), (0.03, 0.2), (0.5, 0.8))
        low = colour(rng, (0.5, 0.65), (0.0, 0.1), (0.65, 0.9))
    elif kind == "evening":
        top = colour(rng, (0.6, 0.85), (0.25, 0.5), (0.4, 0.65))
        low = colour(rng, (0.0, 0.1), (0.3, 0.6), (0.75, 0.95))
    elif kind == "teal":
        top = colour(rng, (0.48, 0.54), (0.4, 0.75), (0.5, 0.75))
        low = colour(rng, (0.48, 0.56), (0.15, 0.4), (0.7, 0.9))
    else:
        top = colour(rng, (0.57, 0.63), (0.5, 0.85), (0.5, 0.95))
        low = colour(rng, (0.53, 0.6), (0.15, 0.5), (0.75, 0.98))
    rows = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    canvas = np.asarray(top, np.float32) * (1 - rows) + np.asarray(low, np.float32) * rows
    canvas = np.broadcast_to(canvas, (side, side, 3))
    if rng.random() < 0.75:
        cover = noise(rng, 5, 4, side) + 0.45 * noise(rng, 14, 10, side)
        cloud = ((cover - rng.uniform(0.0, 0.6)) * 4).clip(0, 1)[..., None] * rng.uniform(0.5, 1)
        white = np.asarray(colour(rng, (0.0, 0.15), (0.0, 0.12), (0.86, 1.0)), np.float32)
        shadow = 1 - 0.25 * noise(rng, 6, 5, side)[..., None].clip(0, 1)
        canvas = canvas * (1 - cloud) + white * shadow * cloud
    return canvas + 0.0


def water(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    """Waves, crests and glitter."""
    side = layout.side
    deep = colour(
        rng,
        pick(rng, ((0.48, 0.54), (0.55, 0.61), (0.6, 0.66)), (0.3, 0.5, 0.2)),
        (0.35, 0.8),
        (0.3, 0.7),
    )
    waves = noise(rng, int(rng.integers(18, 36)), int(rng.integers(4, 9)), side)
    ripples = noise(rng, 56, 16, side)
    light = _in_perspective(0.22 * waves + 0.16 * ripples, layout)
    canvas = _flat(deep, light)
    crest = _in_perspective(
        ((waves + 0.8 * ripples - rng.uniform(0.7, 1.0)) * 5).clip(0, 1), layout
    )[..., None] * rng.uniform(0.2, 0.7)
    return canvas * (1 - crest) + 225 * crest


def road(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    """Asphalt with a broken line along or into the picture."""
    side, top = layout.side, layout.horizon
    tar = colour(rng, (0.55, 0.75), (0.0, 0.12), (0.25, 0.5))
    canvas = _flat(tar, 0.12 * noise(rng, 6, 6, side)) + 9 * grain(rng, side)
    line = pick(rng, ((225, 225, 220), (215, 160, 70)))
    dashes = []
    if layout.vanish is None:
        if rng.random() < 0.85:
            y = rng.uniform(top + 0.12 * (side - top), side - 4)
            start, step, thick = rng.uniform(-30, 0), rng.uniform(20, 36), rng.uniform(1.5, 3.5)
            dashes = [
                ((x, y), (x + step * 0.55, y), (x + step * 0.55, y + thick), (x, y + thick))
                for x in np.arange(start, side, step)
            ]
    else:
        vx, vy = layout.vanish
        for t in (0.07, 0.14, 0.26, 0.46, 0.76):
            a, b = t, t * 1.4
            y0, y1 = vy + (side - vy) * a, vy + (side - vy) * b
            x0, x1 = vx + (layout.track - vx) * a, vx + (layout.track - vx) * b
            dashes.append(((x0 - 2 * a, y0), (x0 + 2 * a, y0), (x1 + 2 * b, y1), (x1 - 2 * b, y1)))
    paintwork = soft_mask(side, dashes, 0) * 0.9
    return canvas * (1 - paintwork) + np.asarray(line, np.float32) * paintwork


def grass(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    """A meadow, sometimes dry, sometimes in flower."""
    side = layout.side
    green = colour(rng, (0.2, 0.36), (0.4, 0.75), (0.35, 0.7))
    light = _in_perspective(
        0.18 * noise(rng, 10, 8, side) + 0.14 * noise(rng, 48, 64, side), layout
    )
    canvas = _flat(green, light) + 16 * grain(rng, side)
    if rng.random() < 0.25:
        rows, columns = rng.integers(layout.horizon, side, 60), rng.integers(0, side, 60)
        canvas[rows, columns] = pick(rng, ((250, 240, 110), (250, 250, 250), (230, 90, 110)))
    return canvas


def railroad(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    """Ballast with sleepers and rails, along the picture or converging into it."""
    side, top = layout.side, layout.horizon
    stones = colour(rng, (0.02, 0.14), (0.03, 0.25), (0.35, 0.62))
    light = 0.1 * noise(rng, 8, 8, side) + _in_perspective(0.14 * noise(rng, 64, 64, side), layout)
    picture = Image.fromarray(
        (_flat(stones, light) + 34 * grain(rng, side)).clip(0, 255).astype(np.uint8)
    )
    draw = ImageDraw.Draw(picture)
    wood = colour(rng, (0.04, 0.1), (0.15, 0.5), (0.15, 0.35))
    steel = colour(rng, (0.55, 0.65), (0.0, 0.12), (0.55, 0.85))
    if layout.vanish is None:
        spacing = rng.uniform(0.2, 0.34) * (side - top) + 7
        count = int(rng.integers(1, 4))
        for i in range(-count + 1, count):
            y = layout.track + i * spacing
            if top + 4 < y < side + 8:
                _track_along(
                    draw,
                    side,
                    y,
                    layout.gauge * (0.5 + 0.5 * (y - top) / (side - top)),
                    rng.uniform(5.0, 8.0),
                    wood,
                    steel,
                )
    else:
        offsets = (0.0, pick(rng, (-2.3, 2.3))) if rng.random() < 0.45 else (0.0,)
        for offset in offsets:
            _track_into(draw, layout, layout.track + offset * layout.gauge, wood, steel)
    return np.asarray(picture, np.float32)


def _track_along(
    draw: ImageDraw.ImageDraw,
    side: int,
    y: float,
    gauge: float,
    step: float,
    wood: Colour,
    steel: Colour,
) -> None:
    """Sleepers and two rails of one track seen from the side; y is the nearer rail's row."""
    high = max(3.0, gauge * 0.35)
    for x in np.arange(-step, side + step, step):
        draw.polygon(
            (
                (x, y + 3),
                (x + step * 0.5, y + 3),
                (x + step * 0.5 + 1, y - high - 2),
                (x + 1, y - high - 2),
            ),
            fill=wood,
        )
    for row in (y - high, y):
        draw.rectangle((0, row - 1, side, row + 0.5), fill=steel)
        draw.line(((0, row + 1.5), (side, row + 1.5)), fill=shade(steel, 0.45), width=1)


def _track_into(
    draw: ImageDraw.ImageDraw, layout: Layout, foot: float, wood: Colour, steel: Colour
) -> None:
    """One track that runs to the vanishing point."""
    assert layout.vanish is not None  # or the tracks would run along the picture
    vx, vy = layout.vanish
    side, top, half = layout.side, layout.horizon, layout.gauge / 2

    def at(t: float, offset: float) -> Point:
        return vx + (foot + offset - vx) * t, vy + (side - vy) * t

    t = 1.15
    while t > 0.05:
        far = t * 0.93
        if at(far, 0)[1] > top:
            draw.polygon(
                (at(t, -half * 1.5), at(t, half * 1.5), at(far, half * 1.5), at(far, -half * 1.5)),
                fill=wood,
            )
        t *= 0.84
    start = max(0.02, (top - vy) / (side - vy))
    for rail in (-half, half):
        w = max(1.6, half * 0.13)
        draw.polygon(
            (at(1.2, rail + w), at(1.2, rail + 2 * w), at(start, rail + w)), fill=shade(steel, 0.45)
        )
        draw.polygon(
            (at(1.2, rail - w), at(1.2, rail + w), at(start, rail + w), at(start, rail - w)),
            fill=steel,
        )


def pavement(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    """Paving stones in rows, or in squares."""
    side = layout.side
    stone = colour(rng, (0.05, 0.15), (0.02, 0.2), (0.55, 0.85))
    height, width = int(rng.integers(9, 18)), int(rng.integers(12, 28))
    rows, columns = np.mgrid[0:side, 0:side] + int(rng.integers(100))
    course = rows // height
    shift = course % 2 * (width // 2) if rng.random() < 0.7 else 0
    tone = rng.random((64, 64), dtype=np.float32)[course % 64, (columns + shift) // width % 64]
    joint = (rows % height == 0) | ((columns + shift) % width == 0)
    canvas = _flat(stone, 0.14 * (tone - 0.5) + 0.06 * noise(rng, 5, 5, side) - 0.28 * joint)
    return canvas + 6 * grain(rng, side)


def sand(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    """A beach or a desert with soft ripples."""
    side = layout.side
    dune = colour(rng, (0.09, 0.13), (0.25, 0.5), (0.65, 0.92))
    ripple = _in_perspective(noise(rng, 24, 3, side), layout)
    canvas = _flat(dune, 0.07 * noise(rng, 4, 4, side) + 0.06 * ripple)
    return canvas + 9 * grain(rng, side)


def floor(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    """Boards, or a carpet with a border."""
    side, top = layout.side, layout.horizon
    wood = colour(rng, (0.04, 0.1), (0.35, 0.65), (0.3, 0.65))
    if rng.random() < 0.7:
        board = int(rng.integers(7, 14))
        rows, columns = np.mgrid[0:side, 0:side]
        plank = rows // board
        ends = (columns + plank * 47) % 70 == 0
        tone = rng.random(side, dtype=np.float32)[plank] - 0.5
        light = 0.2 * tone + 0.07 * noise(rng, 64, 4, side) - 0.3 * (rows % board == 0) - 0.3 * ends
        return _flat(wood, light) + 4 * grain(rng, side)
    canvas = _flat(paint(rng), 0.06 * noise(rng, 8, 8, side)) + 10 * grain(rng, side)
    canvas[top + 5 : top + 8] *= 0.7
    return canvas


def wall(rng: np.random.Generator, layout: Layout) -> np.ndarray:
    """A plain, striped or panelled wall, perhaps with a picture, above a skirting board."""
    side, top = layout.side, layout.horizon
    fill = colour(rng, saturation=(0.05, 0.4), value=(0.5, 0.9))
    canvas = _flat(fill, 0.08 * noise(rng, 4, 4, side)) + 3 * grain(rng, side)
    style = rng.random()
    if style < 0.3:
        stripe = int(rng.integers(8, 16))
        canvas[:, np.arange(side) % stripe < stripe // 2] *= rng.uniform(0.82, 0.93)
    elif style < 0.65 and top > 30:
        x, y = int(rng.integers(4, side - 40)), int(rng.integers(3, max(4, top - 26)))
        canvas[y : y + 22, x : x + 30] = shade(fill, 0.5)
        canvas[y + 2 : y + 20, x + 2 : x + 28] = paint(rng)
    canvas[max(0, top - 4) : top] *= 0.6
    return canvas


def trees(rng: np.random.Generator, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """A row of trees on the horizon: colours (side, side, 3), where they are (side, side)."""
    side, top = layout.side, layout.horizon
    green = colour(rng, (0.22, 0.4), (0.35, 0.7), (0.18, 0.42))
    high = rng.uniform(0.1, 0.2) * side
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    draw.rectangle((0, top - high * 0.5, side, top), fill=255)
    x = -6.0
    while x < side + 6:
        r = rng.uniform(0.5, 1.0) * high / 2
        draw.polygon(circle(x, top - high * rng.uniform(0.4, 0.65), r * 1.1, r), fill=255)
        x += r * 1.1
    canvas = _flat(green, 0.3 * noise(rng, 30, 30, side)) + 30 * grain(rng, side)
    return canvas, np.asarray(mask) > 0


def hills(rng: np.random.Generator, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """One or two ridges."""
    side, top = layout.side, layout.horizon
    rows = np.arange(side)[:, None]
    hue = pick(rng, ((0.22, 0.36), (0.55, 0.7), (0.05, 0.12)))
    fill = colour(rng, hue, (0.15, 0.45), (0.3, 0.6))
    canvas = _flat(fill, 0.12 * noise(rng, 12, 12, side)) + 6 * grain(rng, side)
    ridge = top - side * rng.uniform(0.06, 0.2) * (1.05 + noise(rng, 2, 4, side)[0])
    near = top - side * rng.uniform(0.02, 0.1) * (1.1 + noise(rng, 2, 6, side)[0])
    canvas = np.where((rows > near)[..., None], canvas * 0.78, canvas)
    return canvas, (rows >= np.minimum(ridge, near))


def buildings(rng: np.random.Generator, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """A street of houses with windows and roofs."""
    side, top = layout.side, layout.horizon
    picture, mask = Image.new("RGB", (side, side)), Image.new("L", (side, side))
    draw, cover = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
    x = -rng.uniform(0, 15)
    while x < side:
        width, high = rng.uniform(16, 34), rng.uniform(0.1, 0.36) * side
        fill = colour(rng, pick(rng, ((0.0, 0.12), (0.5, 0.65))), (0.05, 0.45), (0.4, 0.85))
        draw.rectangle((x, top - high, x + width, top), fill=fill)
        cover.rectangle((x, top - high, x + width, top), fill=255)
        if rng.random() < 0.35:
            roof = (
                (x - 1, top - high),
                (x + width + 1, top - high),
                (x + width / 2, top - high - 9),
            )
            draw.polygon(roof, fill=shade(fill, 0.6))
            cover.polygon(roof, fill=255)
        pane = (240, 220, 150) if rng.random() < 0.2 else shade(fill, 0.5)
        for wx in np.arange(x + 3, x + width - 4, 7):
            for wy in np.arange(top - high + 4, top - 5, 8):
                draw.rectangle((wx, wy, wx + 3, wy + 4), fill=pane)
        x += width + (rng.uniform(0, 8) if rng.random() < 0.2 else 0)
    return np.asarray(picture, np.float32), np.asarray(mask) > 0


GROUND_PAINTERS = {
    "sky": sky,
    "water": water,
    "road": road,
    "grass": grass,
    "railroad": railroad,
    "pavement": pavement,
    "sand": sand,
    "floor": floor,
    "wall": wall,
}
BACKDROP_PAINTERS = {"trees": trees, "hills": hills, "buildings": buildings}
