"""Random walk between CAM and CRF: scores flow along learned affinities (Ahn and Kwak, CVPR 2018).

A small head on the CAM network's features learns, from the confident parts of the maps alone,
which near pixels belong together. A walk over those affinities then carries the scores from the
parts that CAM found to the rest of the object, and holds them back at borders. In the CLIMS paper
it is the step from 56.6 to 70.5 mIoU. Affinities are kept per offset, (B, O, h, w), so memory grows
linearly with the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clims_lib.labels import IGNORE


def offsets(radius: float) -> list[tuple[int, int]]:
    """Steps (dy, dx) to the neighbours within `radius`, one of each pair of opposites."""
    if radius < 1:
        raise ValueError(f"radius is at least 1 pixel, not {radius}")
    reach = range(-int(radius), int(radius) + 1)
    return [
        (dy, dx)
        for dy in reach
        for dx in reach
        if dy * dy + dx * dx <= radius * radius and (dy, dx) > (0, 0)
    ]


def shift(x: Tensor, dy: int, dx: int, fill: float = 0.0) -> Tensor:
    """x (..., h, w) -> y with y[i, j] = x[i + dy, j + dx], `fill` beyond the border."""
    h, w = x.shape[-2:]
    padded = F.pad(x, (max(-dx, 0), max(dx, 0), max(-dy, 0), max(dy, 0)), value=fill)
    top, left = max(dy, 0), max(dx, 0)
    return padded[..., top : top + h, left : left + w]


class AffinityHead(nn.Module):
    """Features of several stages -> one embedding per place: [(B, C_s, h_s, w_s)] -> (B, D, h, w).

    The first stage sets the resolution. Two places belong together when their embeddings are near.
    """

    def __init__(self, channels: list[int], embedding: int):
        super().__init__()
        self.squeeze = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, embedding, 1), nn.GroupNorm(4, embedding), nn.ReLU())
            for c in channels
        )
        self.mix = nn.Conv2d(embedding * len(channels), embedding, 1)

    def forward(self, stages: list[Tensor]) -> Tensor:
        size = stages[0].shape[-2:]
        parts = [squeeze(x) for squeeze, x in zip(self.squeeze, stages, strict=True)]
        parts = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in parts]
        return self.mix(torch.cat(parts, 1))


def inner(x: Tensor, border: int) -> Tensor:
    """(..., h, w) without its outer `border` columns and its last rows: a view.

    From there every step of at most `border` pixels ends inside. Raises ValueError when nothing is
    left.
    """
    h, w = x.shape[-2:]
    if border < 0 or h <= border or w <= 2 * border:
        raise ValueError(f"{h} x {w} places leave nothing inside a border of {border}")
    return x[..., : h - border, border : w - border]


def own_places(sizes: Tensor, size: Sequence[int], border: int = 0) -> Tensor:
    """bool (B, 1, h, w): what is `inner` in pictures that fill only a corner of their canvas.

    sizes (B, 2): how many places each is high and wide; size: the canvas, (h, w). Where nothing is
    left inside the border, no place is.
    """
    down, across = (torch.arange(n, device=sizes.device) for n in size)
    high, wide = sizes[:, :1], sizes[:, 1:]
    inside = (across >= border) & (across < wide - border)
    return ((down < high - border)[:, :, None] & inside[:, None, :])[:, None]


def affinity(embedding: Tensor, steps: list[tuple[int, int]], border: int = 0) -> Tensor:
    """a_ij = exp(-mean |f_i - f_j|) in (0, 1], (B, O, h, w): of place i with i + offset o.

    Beyond the border it is 0. border: the released code pads nothing, so that places i outside
    `inner` have no pairs (4 at its radius of 5).
    """
    inside = torch.ones_like(embedding[:1, :1])
    values = torch.cat(
        [
            (-(embedding - shift(embedding, *step)).abs().mean(1, keepdim=True)).exp()
            * shift(inside, *step)
            for step in steps
        ],
        1,
    )
    return F.pad(inner(values, border), (border, border, 0, border)) if border else values


def pairs(
    labels: Tensor, steps: list[tuple[int, int]], border: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Which pairs of sure places are of one object class, of the background, of two classes.

    labels: uint8 (B, h, w), 255 unsure -> three of bool (B, O, h, w), cut to `inner`.
    """
    here = labels[:, None].long()
    there = torch.cat([shift(here, *step, fill=IGNORE) for step in steps], 1)
    here, there = inner(here, border), inner(there, border)
    sure = (here != IGNORE) & (there != IGNORE)
    same = sure & (here == there)
    return same & (here > 0), same & (here == 0), sure & ~same


def affinity_loss(
    values: Tensor,
    labels: Tensor,
    steps: list[tuple[int, int]],
    border: int = 0,
    guard: str = "clamp",
) -> Tensor:
    """Cross entropy over pairs of sure places: L_fg+ / 4 + L_bg+ / 4 + L_- / 2.

    Pairs of one class are to be near, pairs of two classes far; the three kinds are averaged one by
    one because background pairs are by far the most. values: affinity's; labels: uint8 (B, h, w);
    border: only pairs from `inner`. guard: what keeps the logarithms finite, "clamp" from below at
    1e-5, or "add", as released, 1e-5 to every value and to the number of pairs. Raises ValueError
    for another guard.
    """
    if guard not in ("clamp", "add"):
        raise ValueError(f"guard must be clamp or add, not {guard!r}")
    same, ground, different = pairs(labels, steps, border)
    values, loss = inner(values, border), values.new_zeros(())
    kinds = (  # pairs, their weight, what is to be near 1
        (same, 0.25, values),
        (ground, 0.25, values),
        (different, 0.5, 1 - values.float()),
    )
    for some, weight, right in kinds:
        if guard == "add":
            logs = (right.float() + 1e-5).log()
            loss = loss - weight * (logs * some).sum() / (some.sum() + 1e-5)
        elif bool(some.any()):
            loss = loss - weight * right[some].float().clamp(min=1e-5).log().mean()
    return loss


def affinity_training_loss(
    features: Callable[[Tensor], list[Tensor]],
    neighbours: list[tuple[int, int]],
    border: int = 0,
    guard: str = "clamp",
) -> Callable:
    """The affinity loss of an `AffinityHead`, for `training.train`.

    features: pictures (B, 3, S, S) -> the backbone's, which does not learn; neighbours: `offsets`;
    border, guard: of `affinity_loss`. A batch: the pictures and their sure labels uint8 (B, h, w).
    Its three means are over pairs of places, so micro-batches would not quite add up to it.
    """

    def loss(
        head: AffinityHead, batch: tuple[Tensor, Tensor], progress: float
    ) -> tuple[Tensor, dict]:
        images, labels = batch
        with torch.no_grad():
            stages = features(images)
        values = affinity(head(stages), neighbours, border)
        return affinity_loss(values, labels, neighbours, border, guard), {}

    return loss


@torch.no_grad()
def random_walk(
    scores: Tensor, values: Tensor, steps: list[tuple[int, int]], *, beta: float, times: int
) -> Tensor:
    """`times` steps of the walk T = D^-1 A^beta on scores (B, K, h, w).

    Each place takes the mean of its own score (affinity 1) and its neighbours', weighed by
    affinity^beta: a large beta lets through only where the network is sure. values: affinity's.
    Raises ValueError when the shapes do not fit or times is negative.
    """
    if values.shape != (len(scores), len(steps), *scores.shape[-2:]) or times < 0:
        raise ValueError(
            f"scores {tuple(scores.shape)} need affinities ({len(scores)}, {len(steps)}, "
            f"{scores.shape[-2]}, {scores.shape[-1]}), not {tuple(values.shape)}, and times >= 0"
        )
    forward = [(values[:, o : o + 1] ** beta, step) for o, step in enumerate(steps)]
    # The same affinity, seen from the other end.
    both = forward + [(shift(a, -dy, -dx), (-dy, -dx)) for a, (dy, dx) in forward]
    degree = 1 + sum(a for a, _ in both)
    for _ in range(times):
        scores = (scores + sum(a * shift(scores, *step) for a, step in both)) / degree
    return scores
