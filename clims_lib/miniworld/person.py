"""How the men, women, boys and girls of the MiniWorld look: telling heads, varied bodies."""

from typing import NamedTuple

import numpy as np

from clims_lib.miniworld.drawing import Colour, Pen, colour, paint, pick, shade

SKIN = (
    (255, 224, 200),
    (244, 204, 172),
    (224, 172, 132),
    (190, 134, 94),
    (140, 92, 62),
    (92, 60, 44),
)
HAIR = ((34, 28, 28), (70, 44, 28), (112, 70, 40), (206, 162, 84), (172, 74, 38), (176, 176, 180))
DARK_FELT = (32, 30, 36)
POSES = ("stand", "walk", "sit", "raise", "wave", "hips", "point")


class _Body(NamedTuple):
    """Heights and widths of one person, in units of its standing height."""

    head: float  # radius
    shoulder: float
    hip: float
    width: float  # half the shoulders
    limb: float


def draw_person(pen: Pen, rng: np.random.Generator, noun: str) -> None:
    """A man, woman, boy or girl, one unit high; (0, 0) between the feet."""
    child = noun in ("boy", "girl")
    head = rng.uniform(0.125, 0.145) if child else rng.uniform(0.1, 0.115)
    shoulder = 1 - 2 * head - 0.03
    build = rng.uniform(0.85, 1.25)
    body = _Body(
        head,
        shoulder,
        shoulder * rng.uniform(0.56, 0.62),
        (0.1 if noun in ("woman", "girl") else 0.125) * build,
        0.068 * build,
    )
    skin, pose = pick(rng, SKIN), pick(rng, POSES, (0.25, 0.2, 0.12, 0.12, 0.12, 0.1, 0.09))
    top, bottom = paint(rng), pick(rng, (paint(rng), colour(rng, (0.58, 0.65), value=(0.25, 0.6))))
    drop = body.hip * 0.45 if pose == "sit" else 0.0
    if drop:
        body = body._replace(shoulder=body.shoulder - drop, hip=body.hip - drop)
    female = noun in ("woman", "girl")
    skirt = pick(rng, ("none", "skirt", "dress"), (0.35, 0.25, 0.4)) if female else "none"
    bare = skirt != "none" or rng.random() < (0.6 if child else 0.25)
    hair = pick(rng, HAIR, (0.24, 0.2, 0.18, 0.18, 0.1, 0.0 if child else 0.1))
    if female:
        _hair_behind(pen, rng, body, hair)
    _legs(pen, rng, body, pose, skin if bare else bottom, bottom, skirt == "none" and bare)
    _torso(pen, rng, body, top, bottom, skirt)
    sleeve = pick(rng, (top, skin), (0.6, 0.4))
    _arms(pen, rng, body, pose, sleeve, top, skin)
    _head(pen, rng, body, skin, hair, noun)


def _legs(
    pen: Pen,
    rng: np.random.Generator,
    body: _Body,
    pose: str,
    fill: Colour,
    trousers: Colour,
    shorts: bool,
) -> None:
    shoe, w, hip = paint(rng), body.width * 0.55, body.hip
    if pose == "sit":
        knees = (
            ((-w - 0.12, hip), (-w - 0.05, hip - 0.03))
            if rng.random() < 0.5
            else ((-w - 0.03, hip * 0.75), (w + 0.03, hip * 0.75))
        )
        seat = paint(rng)
        pen.box(-body.width - 0.02, 0.02, body.width + 0.02, hip - 0.03, seat)
    else:
        spread = {"walk": rng.uniform(0.08, 0.16)}.get(pose, rng.uniform(0.0, 0.05))
        knees = ((-w - spread / 2, hip / 2), (w + spread / 2, hip / 2))
    for side, knee in zip((-1, 1), knees, strict=True):
        foot = knee[0] if pose == "sit" else side * w + (knee[0] - side * w) * 2
        joint = (side * w, hip)
        pen.line((joint, knee, (foot, 0.04)), body.limb * 1.25, fill)
        if shorts:
            pen.line((joint, knee), body.limb * 1.5, trousers, round_ends=False)
        pen.ellipse(foot + 0.015 * side, 0.022, 0.055, 0.028, shoe)


def _torso(
    pen: Pen, rng: np.random.Generator, body: _Body, top: Colour, bottom: Colour, skirt: str
) -> None:
    w, waist = body.width, body.width * 0.8
    s, h = body.shoulder, body.hip
    if skirt != "none":
        flare, hem = rng.uniform(1.2, 1.9) * w, h * rng.uniform(0.35, 0.7)
        pen.polygon(
            ((-waist, h + 0.06), (waist, h + 0.06), (flare, hem), (-flare, hem)),
            top if skirt == "dress" else bottom,
        )
    else:
        pen.box(-waist, h - 0.04, waist, h + 0.05, bottom)
    pen.polygon(
        (
            (-w, s - 0.03),
            (-w * 0.6, s + 0.01),
            (w * 0.6, s + 0.01),
            (w, s - 0.03),
            (waist, h + 0.02),
            (-waist, h + 0.02),
        ),
        top,
    )
    style, second = rng.random(), paint(rng)
    if style < 0.2:  # stripes across
        for v in np.arange(h + 0.05, s - 0.03, 0.07):
            pen.box(-waist, v, waist, v + 0.03, second)
    elif style < 0.35:  # an open jacket
        pen.polygon(((-0.025, s), (0.025, s), (0.04, h + 0.02), (-0.04, h + 0.02)), second)
    elif style < 0.45:  # braces or a rucksack's straps
        for u in (-w * 0.5, w * 0.5):
            pen.line(((u, s), (u, h)), 0.03, second, round_ends=False)
    elif style < 0.55:
        pen.ellipse(0, (s + h) / 2 + 0.02, 0.05, 0.05, second)
    if rng.random() < 0.3:
        pen.box(-waist, h + 0.01, waist, h + 0.035, shade(bottom, 0.5))


def _arms(
    pen: Pen,
    rng: np.random.Generator,
    body: _Body,
    pose: str,
    sleeve: Colour,
    top: Colour,
    skin: Colour,
) -> None:
    s, w, h = body.shoulder - 0.035, body.width, body.hip
    down = ((w + 0.03, (s + h) / 2), (w + rng.uniform(0.01, 0.06), h - 0.02))
    up = ((w + 0.09, s + 0.03), (w + rng.uniform(0.03, 0.12), s + 0.22))
    out = ((w + 0.12, s - 0.02), (w + 0.25, s + rng.uniform(-0.05, 0.08)))
    hips = ((w + 0.11, (s + h) / 2), (w * 0.75, h + 0.04))
    swing = ((w + 0.05, (s + h) / 2), (w + 0.11, h + 0.05))
    left, right = {
        "raise": (up, up),
        "wave": (down, up),
        "hips": (hips, hips),
        "point": (down, out),
        "walk": (swing, swing),
    }.get(pose, (down, down))
    for side, (elbow, hand) in ((-1, left), (1, right)):
        joint = (side * w * 0.9, s)
        elbow, hand = (side * elbow[0], elbow[1]), (side * hand[0], hand[1])
        pen.line((joint, elbow, hand), body.limb, shade(sleeve, 0.88))
        if sleeve == skin:  # short sleeves
            pen.line(
                (joint, ((joint[0] + elbow[0]) / 2, (s + elbow[1]) / 2)),
                body.limb * 1.2,
                shade(top, 0.9),
            )
        pen.ellipse(*hand, 0.035, 0.035, skin)
    if rng.random() < 0.2 and pose != "raise":  # a bag in one hand
        u, v = -left[1][0], left[1][1]
        pen.box(u - 0.06, v - 0.16, u + 0.06, v - 0.03, paint(rng))


def _hair_behind(pen: Pen, rng: np.random.Generator, body: _Body, hair: Colour) -> None:
    r, v = body.head, body.shoulder + 0.03 + body.head
    style = rng.random()
    if style < 0.55:  # long
        fall = rng.uniform(1.2, 2.4) * r
        pen.polygon(
            (
                (-r * 1.15, v + r * 0.3),
                (r * 1.15, v + r * 0.3),
                (r * 1.25, v - fall),
                (-r * 1.25, v - fall),
            ),
            hair,
        )
    elif style < 0.75:  # two bunches
        for u in (-1.35, 1.35):
            pen.ellipse(u * r, v - 0.1 * r, r * 0.45, r * 0.65, hair)
    elif style < 0.9:  # a bun
        pen.ellipse(0, v + r * 1.25, r * 0.5, r * 0.45, hair)


def _head(
    pen: Pen, rng: np.random.Generator, body: _Body, skin: Colour, hair: Colour, noun: str
) -> None:
    r, v = body.head, body.shoulder + 0.03 + body.head
    pen.box(-r * 0.4, body.shoulder - 0.02, r * 0.4, v, shade(skin, 0.85))
    for u in (-1.0, 1.0):
        pen.ellipse(u * r * 0.95, v - r * 0.1, r * 0.2, r * 0.28, shade(skin, 0.9))
    pen.ellipse(0, v, r * 0.95, r * 1.05, skin)
    bald = noun == "man" and rng.random() < 0.15
    if not bald:
        fringe = rng.uniform(0.25, 0.6)
        pen.polygon(
            [
                (-r * 1.05, v + r * 0.05),
                (-r, v + r * 0.7),
                (-r * 0.55, v + r * 1.15),
                (r * 0.55, v + r * 1.15),
                (r, v + r * 0.7),
                (r * 1.05, v + r * 0.05),
                (r * 0.75, v + r * fringe),
                (-r * 0.75, v + r * fringe),
            ],
            hair,
        )
    for u in (-0.38, 0.38):
        pen.ellipse(u * r, v + r * 0.02, r * 0.14, r * 0.17, (24, 20, 20))
    if noun == "man" and rng.random() < 0.35:
        pen.polygon(
            (
                (-r * 0.85, v - r * 0.2),
                (r * 0.85, v - r * 0.2),
                (r * 0.5, v - r * 1.1),
                (-r * 0.5, v - r * 1.1),
            ),
            hair,
        )
    pen.box(-r * 0.3, v - r * 0.6, r * 0.3, v - r * 0.44, (176, 70, 66))
    if rng.random() < 0.12:  # glasses
        pen.line(((-r * 0.9, v + r * 0.05), (r * 0.9, v + r * 0.05)), r * 0.3, (30, 30, 40), False)
    if rng.random() < 0.42:
        _hat(pen, rng, r, v)


def _hat(pen: Pen, rng: np.random.Generator, r: float, v: float) -> None:
    fill = paint(rng)
    kind = pick(
        rng, ("cap", "brim", "wool", "helmet", "scarf", "top"), (0.3, 0.25, 0.17, 0.12, 0.1, 0.06)
    )
    if kind == "brim":
        straw = fill if rng.random() < 0.5 else (222, 190, 120)
        pen.ellipse(0, v + r * 0.6, r * 1.9, r * 0.3, shade(straw, 0.85))
        pen.polygon(
            (
                (-r * 0.95, v + r * 0.6),
                (r * 0.95, v + r * 0.6),
                (r * 0.7, v + r * 1.4),
                (-r * 0.7, v + r * 1.4),
            ),
            straw,
        )
        pen.box(-r * 0.95, v + r * 0.62, r * 0.95, v + r * 0.85, paint(rng))
    elif kind == "top":
        pen.box(-r * 1.5, v + r * 0.6, r * 1.5, v + r * 0.8, DARK_FELT)
        pen.box(-r * 0.9, v + r * 0.7, r * 0.9, v + r * 1.9, DARK_FELT)
    else:
        pen.polygon(
            (
                (-r * 1.08, v + r * 0.45),
                (r * 1.08, v + r * 0.45),
                (r * 0.95, v + r),
                (r * 0.5, v + r * 1.28),
                (-r * 0.5, v + r * 1.28),
                (-r * 0.95, v + r),
            ),
            fill,
        )
        if kind == "cap":
            pen.polygon(
                (
                    (-r * 0.2, v + r * 0.4),
                    (r * 1.8, v + r * 0.35),
                    (r * 1.7, v + r * 0.55),
                    (0, v + r * 0.7),
                ),
                shade(fill, 0.75),
            )
        elif kind == "wool":
            pen.box(-r * 1.12, v + r * 0.35, r * 1.12, v + r * 0.65, shade(fill, 0.7))
            pen.ellipse(0, v + r * 1.4, r * 0.3, r * 0.3, paint(rng))
        elif kind == "scarf":
            for u in (-1, 1):
                pen.polygon(
                    (
                        (u * r * 0.75, v + r * 0.6),
                        (u * r * 1.15, v + r * 0.5),
                        (u * r * 1.0, v - r),
                        (u * r * 0.7, v - r * 0.7),
                    ),
                    fill,
                )
        else:
            pen.ellipse(0, v + r * 1.0, r * 0.2, r * 0.3, shade(fill, 1.3))
