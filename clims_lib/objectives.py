"""What each method minimises, given a network and a batch: one short loss for each.

cam: image-level labels only. puzzle_cam: whole and tiles must agree (Jo and Yu, ICIP 2021).
clims: CLIP judges what the maps cut out. full_masks: the ceiling, not weakly supervised.
Each `*_loss` makes a function (network, batch, progress in [0, 1]) -> (loss, its parts) for
`training.train`. All are means over the pictures of a batch but those with masks, means over
pixels: these are `Counted`, as are sums and means over pairs. Notebook 03 derives them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clims_lib.backbones import MEAN, STD
from clims_lib.clip_model import CLIP_MEAN, CLIP_STD, normalise_for_clip, resize_for_clip
from clims_lib.devices import on_host
from clims_lib.labels import IGNORE
from clims_lib.losses import (
    COUNTS,
    EQUATIONS,
    TERMS,
    Forms,
    area_loss,
    class_maps,
    clims_loss,
    similarities,
    weighted_sum,
)

Batch = tuple[Tensor, Tensor, Tensor | None]  # images (B,3,H,W) in [0,1], labels (B,K), masks
LossAndParts = tuple[Tensor, dict[str, Tensor]]
Loss = Callable[[Any, Any, float], LossAndParts]  # each has a network and batches of its own


@dataclass(frozen=True)
class Counted:
    """A loss that is no mean over a batch's pictures: count(batch) is how many it is a mean of.

    Where its terms are of different things, count gives {part: how many; None: it is a sum}, and
    total(parts) adds the parts up. Counts are numbers or scalar tensors.
    """

    loss: Loss
    count: Callable[[Any], Any]
    total: Callable[[dict[str, Tensor]], Tensor] | None = None

    def __call__(self, model: nn.Module, batch: Any, progress: float) -> LossAndParts:
        return self.loss(model, batch, progress)


def pooled_scores(scores: Tensor) -> Tensor:
    """Global average pooling of score maps: (B, K, h, w) -> (B, K)."""
    return scores.float().mean((2, 3))


def cam_loss() -> Loss:
    """Binary cross entropy of the pooled scores with the image-level labels: the classic CAM."""

    def loss(model: nn.Module, batch: Batch, progress: float) -> LossAndParts:
        images, labels, _ = batch
        bce = F.binary_cross_entropy_with_logits(pooled_scores(model(images)), labels)
        return bce, {"bce": bce}

    return loss


def area_cam_loss(*, area_weight: float) -> Loss:
    """`cam_loss` plus area_weight x L_REG of the maps' sigmoid: the control without language."""

    def loss(model: nn.Module, batch: Batch, progress: float) -> LossAndParts:
        images, labels, _ = batch
        scores = model(images)
        bce = F.binary_cross_entropy_with_logits(pooled_scores(scores), labels)
        reg = area_loss(scores.sigmoid())
        return bce + area_weight * reg, {"bce": bce, "reg": reg}

    return loss


def cut_tiles(x: Tensor, n: int) -> Tensor:
    """(B, C, H, W) -> (n * n * B, C, H / n, W / n), tiles row by row. ValueError: no clean cut."""
    if x.shape[2] % n or x.shape[3] % n:
        raise ValueError(f"{tuple(x.shape[2:])} cannot be cut into {n} x {n} equal tiles")
    return torch.cat([t for row in x.chunk(n, 2) for t in row.chunk(n, 3)])


def join_tiles(x: Tensor, n: int) -> Tensor:
    """The inverse of `cut_tiles`."""
    tiles = x.chunk(n * n)
    return torch.cat([torch.cat(tiles[r * n : (r + 1) * n], 3) for r in range(n)], 2)


def puzzle_loss(*, tiles: int, alpha: float, ramp: float, rectified: bool = True) -> Loss:
    """BCE(whole) + BCE(joined tiles) + alpha(t) mean |A - A_joined| on the present classes.

    alpha rises linearly from 0 over the first `ramp` of training; ramp 0: it is alpha throughout.
    The mean is over all classes: absent ones count as 0. rectified: A is the scores' positive part;
    False, as released: the scores as they are, so that evidence against a class must agree, too.
    """

    def loss(model: nn.Module, batch: Batch, progress: float) -> LossAndParts:
        images, labels, _ = batch
        whole = model(images).float()
        joined = join_tiles(model(cut_tiles(images, tiles)).float(), tiles)
        present = labels[:, :, None, None]
        apart = whole.relu() - joined.relu() if rectified else whole - joined
        parts = {
            "bce": F.binary_cross_entropy_with_logits(pooled_scores(whole), labels),
            "bce_tiles": F.binary_cross_entropy_with_logits(pooled_scores(joined), labels),
            "puzzle": (apart.abs() * present).mean(),
        }
        weight = alpha * min(1.0, progress / ramp) if ramp else alpha
        return parts["bce"] + parts["bce_tiles"] + weight * parts["puzzle"], parts

    return loss


NORMALISATIONS = {"clip": (CLIP_MEAN, CLIP_STD), "imagenet": (MEAN, STD)}


def clims_training_loss(
    encode: Callable[[Tensor], Tensor],
    class_text: Tensor,
    background_text: Tensor,
    *,
    size: int,
    weights: Mapping[str, float],
    cbs_threshold: float | None = None,
    forms: Forms = EQUATIONS,
    align_corners: bool = False,
    normalisation: str = "clip",
) -> Loss:
    """The CLIMS loss (Eq. 6) of the network's maps; texts are encoded once, by the caller.

    size: CLIP's input resolution; pictures and maps are brought to it before they are multiplied,
    with align_corners as in the releases. cbs_threshold: see `losses.cbs_loss`. normalisation: what
    CLIP sees, "clip", or "imagenet" as in the improved release.
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation is one of {list(NORMALISATIONS)}, not {normalisation!r}")
    mean_and_std = NORMALISATIONS[normalisation]

    def loss(model: nn.Module, batch: Batch, progress: float) -> LossAndParts:
        images, labels, _ = batch
        cams = class_maps(model(images).float().sigmoid(), labels.shape[1])
        seen = normalise_for_clip(resize_for_clip(images, size, align_corners), *mean_and_std)
        known = on_host(batch)[1]  # the labels on the CPU: to ask a GPU would make it wait
        measured = similarities(
            encode, seen, cams, known, class_text, background_text, align_corners
        )
        return clims_loss(
            *measured, cams, labels, weights=weights, cbs_threshold=cbs_threshold, forms=forms
        )

    def count(batch: Batch) -> dict[str, Tensor | int | None]:
        labels, reductions = batch[1], dict(otm=forms.otm_btm, btm=forms.otm_btm, cbs=forms.cbs)
        return {name: COUNTS[reductions.get(name, "image_mean")](labels) for name in TERMS}

    if {forms.otm_btm, forms.cbs} == {"image_mean"}:
        return loss
    return Counted(loss, count, lambda parts: weighted_sum(parts, weights))


def known_pixels(batch: Batch) -> Tensor | int:
    """How many pixels of the batch's masks (B, H, W) are not 255."""
    masks = batch[2]
    return 0 if masks is None else (masks != IGNORE).sum()


def full_mask_loss() -> Loss:
    """Binary cross entropy at every pixel but the borders (255): what masks would buy."""

    def loss(model: nn.Module, batch: Batch, progress: float) -> LossAndParts:
        images, labels, masks = batch
        if masks is None:
            raise ValueError("full_masks needs the masks: read the data set with masks=True")
        scores = F.interpolate(
            model(images).float(), masks.shape[-2:], mode="bilinear", align_corners=False
        )
        known, num_classes = masks != IGNORE, labels.shape[1]
        classes = torch.arange(1, num_classes + 1, device=masks.device).view(-1, 1, 1)
        target = (masks[:, None] == classes).float()
        bce = F.binary_cross_entropy_with_logits(scores, target, reduction="none")
        part = (bce * known[:, None]).sum() / (known.sum() * num_classes).clamp(min=1)
        return part, {"bce": part}

    return Counted(loss, known_pixels)


def mask_loss() -> Loss:
    """Cross entropy of label scores (B, K + 1, H, W) with masks (B, H, W), 255 left out.

    0 where nothing else is left.
    """

    def loss(model: nn.Module, batch: Batch, progress: float) -> LossAndParts:
        images, _, masks = batch
        if masks is None:
            raise ValueError("this loss compares with masks: hand them to the batches")
        total = F.cross_entropy(
            model(images).float(), masks.long(), ignore_index=IGNORE, reduction="sum"
        )
        entropy = total / (masks != IGNORE).sum().clamp(min=1)
        return entropy, {"ce": entropy}

    return Counted(loss, known_pixels)
