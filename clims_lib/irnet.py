"""IRNet without its instances: a walk that learned edges stop (Ahn, Cho and Kwak, CVPR 2019).

    picture -> backbone (does not learn) -> edge (B, 1, h, w)               EdgeHead
                                         -> displacement (B, 2, h, w)       DisplacementHead
    sure labels -> pairs of one class: no edge between them, one displacement;
                   pairs of two classes: an edge between them               irnet_training_loss
    edge -> affinity of two places = 1 - the highest edge on the way        path_affinity
    maps * (1 - edge) -> random walk over affinity^beta -> maps             walk_to_edges

No label says where an edge is: it must lie somewhere between two sure places of different classes,
and the network finds the one place that serves all such pairs. The displacements point to the
middle of each instance, which only tells instances apart. They share no learned weight with the
edges, so labels by class come out the same without them. The improved release of CLIMS goes this
way from seeds of 58.6 mIoU to masks of 74.1. h x w is a quarter of the picture, O the number of
steps (dy, dx) to near places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clims_lib.random_walk import affinity_loss, inner, pairs, random_walk, shift

Offset = tuple[int, int]
Paths = dict[Offset, list[Offset]]
Parts = tuple[Tensor, dict[str, Tensor]]  # a loss and its parts by name


def edge_paths(radius: int) -> Paths:
    """{step: the places (dy, dx) on the way}, for one of each pair of opposite steps < radius.

    On the way is what lies less than one pixel beside the straight line, far end first.
    Raises ValueError for a radius below 2, which has no steps.
    """
    if radius < 2:
        raise ValueError(f"radius is at least 2 pixels, not {radius}")
    found: Paths = {}
    for dy in range(radius):
        for dx in range(1 - radius, radius):
            if (dy, dx) <= (0, 0) or dy * dy + dx * dx >= radius * radius:
                continue
            box = [
                (y, x)
                for y in range(dy + 1)
                for x in range(min(dx, 0), max(dx, 0) + 1)
                if (dy * x - dx * y) ** 2 < dy * dy + dx * dx
            ]
            found[dy, dx] = sorted(box, key=lambda place: -abs(place[0]) - abs(place[1]))
    return found


def path_affinity(edge: Tensor, paths: Paths) -> Tensor:
    """1 - the highest edge on each path: edge (B, 1, h, w) in [0, 1] -> (B, O, h, w).

    Beyond the picture the edge is 1, so that pairs which leave it have affinity 0.
    """
    near = {place for path in paths.values() for place in path}
    at = {place: shift(edge, *place, fill=1.0) for place in sorted(near)}
    highest = [  # max, unlike amax, gives the whole gradient of a tie to the first
        torch.stack([at[place] for place in path]).max(0).values for path in paths.values()
    ]
    return 1 - torch.cat(highest, 1)


@torch.no_grad()
def walk_to_edges(
    maps: Tensor, edge: Tensor, *, radius: int = 5, beta: float = 10, times: int = 2**8
) -> Tensor:
    """Carry maps (B, K, h, w) along affinities up to the edges (B, 1, h, w); both in [0, 1].

    The places on an edge give up their scores first. Then normalise_cam(how="joint").
    """
    paths = edge_paths(radius)
    values = path_affinity(edge, paths)
    return random_walk(maps * (1 - edge), values, list(paths), beta=beta, times=times)


# ---- Training -----------------------------------------------------------------------------------


def displacement_loss(
    field: Tensor, labels: Tensor, steps: Sequence[Offset], border: int = 0
) -> Tensor:
    """How far near displacements are from pointing to one middle: L_fg / 2 + L_bg / 2.

    Two places of one object class should differ by the step between them, two of the background
    not at all. field (B, 2, h, w): (y, x) in pixels; labels uint8 (B, h, w), 255 unsure; border:
    only pairs from `random_walk.inner`.
    """
    same, ground, _ = pairs(labels, list(steps), border)
    apart = torch.stack([inner(field - shift(field, *step), border) for step in steps], 2)
    step = field.new_tensor(steps).T[None, :, :, None, None]
    loss = field.new_zeros(())
    for some, gap in ((same, apart - step), (ground, apart)):
        loss = loss + (gap.abs() * some[:, None]).sum() / (2 * some.sum() + 1e-5) / 2
    return loss


def irnet_training_loss(
    features: Callable[[Tensor], list[Tensor]], radius: int = 10
) -> Callable[..., Parts]:
    """What an `IRNet` minimises, for `training.train`: both losses added up.

    features: pictures (B, 3, H, W) -> the five stages', which do not learn. A batch: the pictures
    and their sure labels uint8 (B, h, w). Only pairs whose first place lies radius - 1 from the
    border count, as released.
    """
    paths = edge_paths(radius)

    def loss(head: IRNet, batch: tuple[Tensor, Tensor], progress: float) -> Parts:
        images, labels = batch
        with torch.no_grad():
            stages = features(images)
        edge, field = head(stages)
        values = path_affinity(edge.float().sigmoid(), paths)
        parts = {"edge": affinity_loss(values, labels, list(paths), radius - 1, guard="add")}
        if field is not None:
            parts["displacement"] = displacement_loss(field, labels, list(paths), radius - 1)
        return torch.stack(list(parts.values())).sum(), parts

    return loss


# ---- Network ------------------------------------------------------------------------------------


class IRNet(nn.Module):
    """Features of a backbone's five stages -> edge logits (B, 1, h, w), displacements (B, 2, h, w).

    channels: of the stages, ThinResNet's; the first stage's features come at half the picture's
    size and are pooled as in the backbone. displacement=False: None in their place, for a network
    of edges alone (PuzzleCAM's AffinityNet).
    """

    def __init__(self, channels: Sequence[int], displacement: bool = True):
        super().__init__()
        self.edge = EdgeHead(channels)
        self.displacement = DisplacementHead(channels) if displacement else None

    def forward(self, stages: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        stages = [F.max_pool2d(stages[0], 3, 2, 1), *stages[1:]]
        return self.edge(stages), self.displacement(stages) if self.displacement else None


class EdgeHead(nn.Module):
    """Five stages' features, each with 32 channels at the first one's size -> edge logits."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.squeeze = nn.ModuleList(_squeeze(c, 32, 4) for c in channels)
        self.mix = nn.Conv2d(32 * len(channels), 1, 1)

    def forward(self, stages: list[Tensor]) -> Tensor:
        parts = [f(x) for f, x in zip(self.squeeze, stages, strict=True)]
        return self.mix(torch.cat([_enlarge(x, parts[0]).relu() for x in parts], 1))


class DisplacementHead(nn.Module):
    """The coarse stages' features are mixed first, then with the two fine ones -> (B, 2, h, w)."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        widths = (64, 128, 256, 256, 256)
        self.squeeze = nn.ModuleList(
            _squeeze(c, width, 8 if width == 64 else 16)
            for c, width in zip(channels, widths, strict=True)
        )
        self.coarse = _squeeze(3 * 256, 256, 16)
        self.fine = _squeeze(64 + 128 + 256, 256, 16)
        self.mix = nn.Conv2d(256, 2, 1, bias=False)

    def forward(self, stages: list[Tensor]) -> Tensor:
        first, second, *rest = [f(x) for f, x in zip(self.squeeze, stages, strict=True)]
        coarse = self.coarse(torch.cat([_enlarge(x, rest[0]).relu() for x in rest], 1))
        fine = [first.relu(), second.relu(), _enlarge(coarse, second).relu()]
        return self.mix(self.fine(torch.cat(fine, 1)).relu())


def _squeeze(channels: int, width: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.GroupNorm(groups, width))


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Enlarge by a power of two and cut to the size of `like`: a stage is as large, rounded up."""
    ratio = max(a / b for a, b in zip(like.shape[-2:], x.shape[-2:], strict=True))
    factor = 2 ** math.ceil(math.log2(ratio))
    x = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    return x[..., : like.shape[-2], : like.shape[-1]]


@torch.no_grad()
def edge_map(head: IRNet, features: Callable[[Tensor], list[Tensor]], images: Tensor) -> Tensor:
    """Edges (B, 1, h, w) in [0, 1] of pictures (B, 3, H, W): logits averaged with the mirror's."""
    plain, mirrored = (head(features(x))[0].float() for x in (images, images.flip(-1)))
    return ((plain + mirrored.flip(-1)) / 2).sigmoid()
