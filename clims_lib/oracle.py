"""The oracle check: CLIMS can only work where its loss is lowest at the true mask.

For every class, the mean total loss at the true mask is compared with the masks a lazy network
would choose: half the object, its ground, both, everything, nothing. Notebook 02 draws it. The true
masks serve this check alone; no training sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from clims_lib.losses import EQUATIONS, Forms, clims_loss, similarities, weighted_sum

MASKS = ("true", "true_blurred", "half", "ground", "true+ground", "whole", "empty")


def candidate_masks(objects: Tensor, ground: Tensor, stride: int) -> dict[str, Tensor]:
    """The seven masks (N, H, W) in [0, 1] of N pictures, by name.

    objects, ground: (N, H, W) in {0, 1}: the class's pixels and the ground it stands on. stride:
    pixels a CAM position; "true_blurred" is what a perfect CAM of that resolution looks like.
    """
    half = objects.clone()
    for one in half:  # the left half, cut at the object's own middle
        columns = one.any(0).nonzero()[:, 0]
        if len(columns):
            one[:, : int(columns.float().mean())] = 0
    coarse = F.avg_pool2d(objects[:, None], stride)
    blurred = F.interpolate(coarse, objects.shape[-2:], mode="bilinear", align_corners=False)
    masks = (
        objects,
        blurred[:, 0],
        half,
        ground,
        (objects + ground).clamp(max=1),
        torch.ones_like(objects),
        torch.zeros_like(objects),
    )
    return dict(zip(MASKS, masks, strict=True))


@torch.no_grad()
def losses_at_masks(
    encode: Callable[[Tensor], Tensor],
    images: Tensor,
    objects: Tensor,
    ground: Tensor,
    klass: int,
    class_text: Tensor,
    background_text: Tensor,
    *,
    weights: Mapping[str, float],
    stride: int,
    cbs_threshold: float | None = None,
    forms: Forms = EQUATIONS,
) -> dict[str, dict[str, float]]:
    """Mean total loss and its terms at every candidate mask of class number `klass`.

    images: (N, 3, H, W) in CLIP's units; class_text (K, D), background_text (K, L, D) unit vectors.
    Only the class itself counts as present. Raises ValueError when there is no picture.
    """
    if not len(images):
        raise ValueError("no picture of this class to check")
    num_classes, found = len(class_text), {}
    labels = F.one_hot(torch.full((len(images),), klass), num_classes).float().to(images.device)
    for name, mask in candidate_masks(objects, ground, stride).items():
        cams = mask[:, None] * labels[:, :, None, None]
        measured = similarities(encode, images, cams, labels, class_text, background_text)
        total, terms = clims_loss(
            *measured, cams, labels, weights=weights, cbs_threshold=cbs_threshold, forms=forms
        )
        found[name] = {"loss": total.item()} | {k: v.item() for k, v in terms.items()}
    return found


def passes(losses: dict[str, dict[str, float]]) -> bool:
    """True when the true mask, sharp or blurred, has a lower loss than every lazy one."""
    return _margin({name: entry["loss"] for name, entry in losses.items()}) > 0


def margins(
    rows: Iterable[Mapping], weights: Mapping[str, float] | None = None
) -> dict[str, float]:
    """{class: how much cheaper the true mask is than the cheapest lazy one}, the mean over seeds.

    rows: results.json's oracle rows. Negative where the check fails. `weights` add the terms up
    anew, to see what other weights would do without measuring again.
    """
    found: dict[tuple, dict[str, float]] = {}
    for row in rows:
        values = found.setdefault((row["class"], row.get("seed")), {})
        values[row["mask"]] = row["loss"] if weights is None else weighted_sum(row, weights)
    seeds: dict[str, list[float]] = {}
    for (name, _), values in found.items():
        seeds.setdefault(name, []).append(_margin(values))
    return {name: sum(each) / len(each) for name, each in seeds.items()}


def _margin(values: dict[str, float]) -> float:
    lazy = min(v for name, v in values.items() if name not in ("true", "true_blurred"))
    return lazy - min(values["true"], values["true_blurred"])
