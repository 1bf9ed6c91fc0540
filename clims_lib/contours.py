"""Outlines of the regions in a mask: where they lie, and how often they turn.

CCT's released cut-out asks the second: OpenCV's findContours keeps only the points where an outline
turns, and the release counts these. Here without OpenCV, by SciPy (the extra `voc2012`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

# A pixel's eight neighbours around it: row and column offsets, right first, counter-clockwise.
_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


class Contour(NamedTuple):
    """A region's bounding box, first and last rows and columns, and how often its outline turns."""

    top: int
    left: int
    bottom: int
    right: int
    turns: int


def outer_contours(mask: Tensor) -> list[Contour]:
    """The outline of every region of a mask (H, W), booleans, that lies in no other one's hole.

    Pixels touch each other in eight directions. Regions come in the order of their first pixels,
    row by row. A rectangle turns 4 times, a line twice, a pixel counts as 1; all other slopes than
    straight and diagonal turn at every step. Raises ValueError where SciPy is missing.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise ValueError(
            "contours need the extra `voc2012`: pip install -e .[voc2012]; "
            "or cut by the rule 'ours'"
        ) from error
    open_ground, _ = ndimage.label(np.pad(~mask.cpu().bool().numpy(), 1, constant_values=True))
    outside = open_ground == open_ground[0, 0]  # so holes, and what lies in them, are filled
    regions, count = ndimage.label(~outside, np.ones((3, 3)))
    free = sum(np.roll(outside, (-y, -x), (0, 1)) << i for i, (y, x) in enumerate(_NEIGHBOURS))
    turns = np.bincount(regions.ravel(), TURNS[free].ravel(), count + 1).astype(int)
    return [
        Contour(rows.start - 1, columns.start - 1, rows.stop - 2, columns.stop - 2, number)
        for (rows, columns), number in zip(
            ndimage.find_objects(regions), turns[1:].tolist(), strict=True
        )
    ]


def _turns(free: int) -> int:
    """How often a walk around a region turns at a pixel, given its free neighbours, one bit each.

    The walk passes the pixel once for each run of free neighbours that holds one of the four next
    to it; it comes from one end of the run, leaves towards the other, and three free in a row are
    straight on.
    """
    if free in (0, 255):  # inside; a pixel of its own
        return int(free == 255)
    first = next(i for i in range(8) if not free >> i & 1)
    turns, run = 0, []
    for i in (*range(first, first + 8), first):
        if free >> i % 8 & 1:
            run.append(i % 8)
        else:
            turns += any(i % 2 == 0 for i in run) and len(run) != 3
            run = []
    return turns


TURNS = np.array([_turns(free) for free in range(256)])
