"""One MiniWorld scene: objects placed on a ground, drawn, lit, and known pixel by pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clims_lib.miniworld import grounds
from clims_lib.miniworld.boat import draw_boat
from clims_lib.miniworld.drawing import Layout, Pen, circle, pick, soft_mask
from clims_lib.miniworld.objects import draw_aeroplane, draw_car, draw_cow
from clims_lib.miniworld.person import draw_person
from clims_lib.miniworld.train import draw_train

CLASSES = ("aeroplane", "boat", "car", "cow", "person", "train")
GROUNDS = (
    "sky",
    "water",
    "road",
    "grass",
    "railroad",
    "pavement",
    "sand",
    "floor",
    "wall",
    "trees",
    "hills",
    "buildings",
)
STANDING = GROUNDS[:8]  # grounds that a picture can be made of; the others only stand behind
HOME = {"aeroplane": "sky", "boat": "water", "car": "road", "cow": "grass", "train": "railroad"}
NOUNS = {
    "person": ("man", "woman", "boy", "girl"),
    "railroad": ("railroad", "railway", "rails"),
    "water": ("water", "river", "sea", "lake"),
    "grass": ("grass", "meadow"),
    "road": ("road", "street"),
}

# Length of the objects' own unit (height of a person, else length) as a share of the picture.
_UNITS = {
    "aeroplane": (0.62, 1.0),
    "boat": (0.52, 0.86),
    "car": (0.5, 0.84),
    "cow": (0.48, 0.78),
    "train": (0.42, 0.66),
    "man": (0.66, 1.1),
    "woman": (0.64, 1.05),
    "boy": (0.5, 0.8),
    "girl": (0.5, 0.8),
}
_DRAW = {
    "aeroplane": draw_aeroplane,
    "boat": draw_boat,
    "car": draw_car,
    "cow": draw_cow,
    "train": draw_train,
}
_SMALLEST = 0.012  # share of the picture that must be seen of every object


class Thing(NamedTuple):
    """An object or a ground in a picture; noun is what a caption calls it, never "person"."""

    name: str
    noun: str
    is_object: bool


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 (H, W, 3), and for each pixel the index of its thing, uint8 (H, W).

    Grounds come first in `things`, then the objects from far to near.
    """

    image: np.ndarray
    thing_map: np.ndarray
    things: tuple[Thing, ...]

    def mask(self) -> np.ndarray:
        """Class of each pixel without border, uint8 (H, W): 0 background, 1..6 as in CLASSES."""
        return self._look_up(True, CLASSES)

    def ground(self) -> np.ndarray:
        """Ground of each pixel, uint8 (H, W): 1 + index into GROUNDS, 0 where an object is."""
        return self._look_up(False, GROUNDS)

    def _look_up(self, is_object: bool, names: tuple[str, ...]) -> np.ndarray:
        index = [1 + names.index(t.name) if t.is_object == is_object else 0 for t in self.things]
        return np.array(index, np.uint8)[self.thing_map]


def draw_scene(
    rng: np.random.Generator,
    objects: Sequence[str],
    ground: str,
    backdrop: str | None = None,
    size: int = 64,
) -> Scene:
    """A picture of the objects (names from CLASSES) on a ground, with a backdrop on the horizon.

    Drawn at twice the size and averaged down. A person becomes a man, woman, boy or girl; behind
    a floor stands a wall. ValueError: unknown name, backdrop behind a floor, size below 16.
    """
    _check(objects, ground, backdrop, size)
    layout = _lay_out(rng, ground, backdrop, 2 * size)
    canvas, index, names = _draw_ground(rng, layout, ground, backdrop)
    nouns = [str(pick(rng, NOUNS[n])) if n == "person" else n for n in objects]
    for _ in range(20):  # again if an object is hidden behind another
        pens = [
            _draw_object(rng, layout, ground, noun, slot, len(nouns))
            for noun, slot in zip(nouns, rng.permutation(len(nouns)), strict=True)
        ]
        pens.sort(key=lambda placed: placed[2])  # far to near
        seen = index.copy()
        for i, (_, pen, _) in enumerate(pens, start=len(names)):
            seen[np.asarray(pen.image.getchannel("A")) > 0] = i
        counts = np.bincount(seen.ravel(), minlength=len(names) + len(pens))[len(names) :]
        if (counts >= _SMALLEST * seen.size).all():
            break
    light = rng.uniform(-0.16, 0.16)
    for _, pen, _ in pens:
        _compose(rng, canvas, pen, light, ground)
    things = [Thing(name, str(pick(rng, NOUNS.get(name, (name,)))), False) for name in names]
    things += [Thing(_class_of(noun), noun, True) for noun, _, _ in pens]
    return _finish(rng, canvas, seen, things)


def _check(objects: Sequence[str], ground: str, backdrop: str | None, size: int) -> None:
    unknown = [name for name in objects if name not in CLASSES]
    if unknown:
        raise ValueError(f"unknown objects {unknown}: choose from {', '.join(CLASSES)}")
    if ground not in STANDING:
        raise ValueError(f"unknown ground {ground!r}: choose from {', '.join(STANDING)}")
    if backdrop is not None and (backdrop not in grounds.BACKDROPS or ground == "floor"):
        raise ValueError(
            f"backdrop {backdrop!r} behind {ground}: choose None or, except behind a "
            f"floor, one of {', '.join(grounds.BACKDROPS)}"
        )
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, not {size}")


def _class_of(noun: str) -> str:
    return "person" if noun in NOUNS["person"] else noun


def _lay_out(rng: np.random.Generator, ground: str, backdrop: str | None, side: int) -> Layout:
    if ground == "sky":
        land = backdrop is not None and rng.random() < 0.6
        horizon = rng.uniform(0.62, 0.92) if land else 1.0
    elif backdrop is None and ground != "floor" and rng.random() < 0.15:
        horizon = 0.0  # seen from above: ground alone
    else:
        horizon = rng.uniform(0.28, 0.6)
    horizon = int(horizon * side)
    vanish = None
    if ground in ("road", "railroad") and rng.random() < (0.35 if horizon else 0.2):
        vanish = (rng.uniform(0.2, 0.8) * side, horizon - (0.02 if horizon else 0.25) * side)
    if vanish is None:
        track = horizon + rng.uniform(0.45, 0.9) * (side - horizon)
        return Layout(side, horizon, vanish, track, 0.15 * side)
    return Layout(
        side, horizon, vanish, rng.uniform(0.2, 0.8) * side, rng.uniform(0.24, 0.4) * side
    )


def _draw_ground(
    rng: np.random.Generator, layout: Layout, ground: str, backdrop: str | None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The empty stage: canvas (side, side, 3), thing index (side, side), names of the grounds."""
    side, top = layout.side, layout.horizon
    index = np.zeros((side, side), np.uint8)
    names = ["wall" if ground == "floor" else "sky"]
    canvas = np.empty((side, side, 3), np.float32)
    if top:
        canvas[:] = grounds.GROUND_PAINTERS[names[0]](rng, layout)
    if backdrop is not None:
        colours, where = grounds.BACKDROP_PAINTERS[backdrop](rng, layout)
        canvas[where] = colours[where]
        index[where] = len(names)
        names.append(backdrop)
    if top < side:
        land = "grass" if ground == "sky" else ground
        canvas[top:] = grounds.GROUND_PAINTERS[land](rng, layout)[top:]
        index[top:] = len(names)
        names.append(land)
    return canvas, index, names


def _draw_object(
    rng: np.random.Generator, layout: Layout, ground: str, noun: str, slot: int, count: int
) -> tuple[str, Pen, float]:
    """Place and draw one object: (noun, pen, depth); nearer objects have the larger depth."""
    side, top = layout.side, layout.horizon
    share = rng.uniform(*_UNITS[noun]) * (1.0, 0.9, 0.78)[min(count, 3) - 1]
    person, flip, angle = _class_of(noun) == "person", bool(rng.random() < 0.5), 0.0
    x = (slot + 0.5 + rng.uniform(-0.36, 0.36)) / count * side
    depth = rng.uniform(0.4, 1.0)
    y = top + depth * (side - top)
    unit = share * side * (1.0 if ground == "sky" else 0.72 + 0.4 * depth)
    if ground == "sky" and person:  # stands below the picture's border
        y = rng.uniform(0.98, 1.2) * side
    elif ground == "sky":
        y = rng.uniform(0.25, 0.75) * side + (0 if noun == "aeroplane" else 0.2 * unit)
        angle = rng.normal(0, 0.3) if noun == "aeroplane" else 0.0
    elif noun == "aeroplane":
        y, angle = y - 0.25 * unit, rng.normal(0, 0.06)
    if person and ground != "sky":
        y = max(y, min(1.03 * unit, 1.15 * side))  # the head stays in the picture
    if noun == "train" and ground == "railroad":
        x, y, unit = _on_track(rng, layout, x, unit, count)
    frontal = noun == "train" and layout.vanish is not None
    pen = Pen(layout if frontal else layout._replace(vanish=None), x, y, unit, flip, angle)
    if person:
        draw_person(pen, rng, noun)
    else:
        _DRAW[noun](pen, rng)
    if ground == "water":
        _sink(rng, pen, noun)
    return noun, pen, y


def _on_track(
    rng: np.random.Generator, layout: Layout, x: float, unit: float, count: int
) -> tuple[float, float, float]:
    """Where a train stands on the rails: x, y and its unit in pixels."""
    if layout.vanish is None:
        return x, layout.track + rng.uniform(-1, 1), unit
    vx, vy = layout.vanish
    near = rng.uniform(0.5, 0.98) if count == 1 else rng.uniform(0.45, 0.85)
    return (
        vx + (layout.track - vx) * near,
        vy + (layout.side - vy) * near,
        layout.gauge * near * rng.uniform(2.5, 3.0),
    )


def _sink(rng: np.random.Generator, pen: Pen, noun: str) -> None:
    """Hide what is under water."""
    depth = rng.uniform(0.02, 0.05) if noun == "boat" else rng.uniform(0.0, 0.3)
    line = int(pen.y - depth * pen.unit)
    if 0 < line < pen.image.height:
        pen.image.paste((0, 0, 0, 0), (0, line, pen.image.width, pen.image.height))


def _compose(
    rng: np.random.Generator, canvas: np.ndarray, pen: Pen, light: float, ground: str
) -> None:
    """Lay a drawn object and its shadow onto the canvas, in place."""
    side = canvas.shape[0]
    box = pen.image.getbbox()
    if box is None:  # sunk, or wholly outside the picture: nothing to lay down
        return
    x0, y0, x1, y1 = box
    wide = x1 - x0
    if ground != "sky" and y1 < side + 4:
        reach = 0.16 if ground == "water" else 0.07
        polygon = circle((x0 + x1) / 2 + 60 * light, y1 - 1, 0.52 * wide, reach * wide + 1)
        canvas *= 1 - rng.uniform(0.3, 0.5) * soft_mask(side, [polygon], 2)
    pixels = np.asarray(pen.image)[y0:y1, x0:x1]
    across = np.linspace(-light, light, wide, dtype=np.float32)
    down = np.linspace(0.08, -0.12, y1 - y0, dtype=np.float32)[:, None]
    rough = rng.uniform(0.03, 0.12) * (rng.random((y1 - y0, wide), dtype=np.float32) - 0.5)
    where = pixels[..., 3] > 0
    lit = pixels[..., :3] * (1 + across + down + rough)[..., None]
    canvas[y0:y1, x0:x1][where] = lit[where]


def _finish(
    rng: np.random.Generator, canvas: np.ndarray, seen: np.ndarray, things: list[Thing]
) -> Scene:
    """Light, averaging down to half the size, sensor noise; things that nobody sees drop out."""
    half = canvas.shape[0] // 2
    image = canvas[0::2] + canvas[1::2]
    image = (image[:, 0::2] + image[:, 1::2]) / 4
    tint = rng.uniform(0.94, 1.06, 3) * rng.uniform(0.78, 1.1)
    image = image * tint.astype(np.float32)
    image += rng.uniform(1, 5) * rng.standard_normal(image.shape, dtype=np.float32)
    quarters = seen.reshape(half, 2, half, 2).transpose(1, 3, 0, 2).reshape(4, half, half)
    winner, most = np.zeros((half, half), np.uint8), np.zeros((half, half), np.uint8)
    for i in range(len(things)):
        votes = (quarters == i).sum(0, dtype=np.uint8)
        better = votes >= np.maximum(most, 1)  # the nearer thing wins a draw
        winner[better], most[better] = i, votes[better]
    kept = np.flatnonzero(np.bincount(winner.ravel()))
    return Scene(
        image.clip(0, 255).astype(np.uint8),
        np.searchsorted(kept, winner).astype(np.uint8),
        tuple(things[i] for i in kept),
    )
