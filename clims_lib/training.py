"""Training CAM networks: one loop, and one short loss for each method.

cam: image-level labels only. puzzle_cam: whole and tiles must agree (Jo and Yu, ICIP 2021).
clims: CLIP judges what the maps cut out. full_masks: the ceiling, not weakly supervised.
Each `*_loss` makes a function (network, batch, progress in [0, 1]) -> (loss, its parts).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clims_lib.clip_model import autocast
from clims_lib.clip_model import normalise as normalise_for_clip
from clims_lib.losses import area_loss, clims_loss, similarities
from clims_lib.pictures import random_crops

Batch = tuple[Tensor, Tensor, Tensor | None]  # images (B,3,H,W) in [0,1], labels (B,K), masks
Loss = Callable[[nn.Module, Batch, float], tuple[Tensor, dict[str, Tensor]]]


def pooled_scores(scores: Tensor) -> Tensor:
    """Global average pooling of score maps: (B, K, h, w) -> (B, K)."""
    return scores.float().mean((2, 3))


def cam_loss(area_weight: float = 0.0) -> Loss:
    """Binary cross entropy of the pooled scores with the image-level labels: the classic CAM.

    area_weight > 0 adds L_REG of the maps' sigmoid: the control without any language.
    """

    def loss(model: nn.Module, batch: Batch, progress: float):
        images, labels, _ = batch
        scores = model(images)
        parts = {"bce": F.binary_cross_entropy_with_logits(pooled_scores(scores), labels)}
        if not area_weight:
            return parts["bce"], parts
        parts["reg"] = area_loss(scores.sigmoid())
        return parts["bce"] + area_weight * parts["reg"], parts

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


def puzzle_loss(*, tiles: int, alpha: float, ramp: float) -> Loss:
    """BCE(whole) + BCE(joined tiles) + alpha(t) mean |A - A_joined| on the present classes.

    alpha rises linearly from 0 over the first `ramp` of training.
    """

    def loss(model: nn.Module, batch: Batch, progress: float):
        images, labels, _ = batch
        whole = model(images).float()
        joined = join_tiles(model(cut_tiles(images, tiles)).float(), tiles)
        present = labels[:, :, None, None]
        parts = {
            "bce": F.binary_cross_entropy_with_logits(pooled_scores(whole), labels),
            "bce_tiles": F.binary_cross_entropy_with_logits(pooled_scores(joined), labels),
            "puzzle": ((whole.relu() - joined.relu()).abs() * present).mean(),
        }
        weight = alpha * min(1.0, progress / ramp)
        return parts["bce"] + parts["bce_tiles"] + weight * parts["puzzle"], parts

    return loss


def clims_training_loss(
    encode: Callable[[Tensor], Tensor], class_text: Tensor, background_text: Tensor, *,
    weights: tuple[float, float, float, float], cbs_threshold: float | None = None,
) -> Loss:  # fmt: skip
    """The CLIMS loss (Eq. 6) of the network's maps; texts are encoded once, by the caller."""

    def loss(model: nn.Module, batch: Batch, progress: float):
        images, labels, _ = batch
        cams = model(images).float().sigmoid()
        measured = similarities(
            encode, normalise_for_clip(images), cams, labels, class_text, background_text
        )
        return clims_loss(*measured, cams, labels, weights=weights, cbs_threshold=cbs_threshold)

    return loss


def full_mask_loss(num_classes: int) -> Loss:
    """Binary cross entropy at every pixel but the borders (255): what masks would buy."""

    def loss(model: nn.Module, batch: Batch, progress: float):
        images, _, masks = batch
        if masks is None:
            raise ValueError("full_masks needs the masks: read the data set with masks=True")
        scores = F.interpolate(
            model(images).float(), masks.shape[-2:], mode="bilinear", align_corners=False
        )
        known = masks != 255
        classes = torch.arange(1, num_classes + 1, device=masks.device).view(-1, 1, 1)
        target = (masks[:, None] == classes).float()
        bce = F.binary_cross_entropy_with_logits(scores, target, reduction="none")
        part = (bce * known[:, None]).sum() / (known.sum() * num_classes).clamp(min=1)
        return part, {"bce": part}

    return loss


def train(
    model: nn.Module, loss: Loss, batches: Callable[[int], list[Batch]], *, epochs: int, lr: float,
    head_lr_factor: float = 1.0, weight_decay: float = 1e-4, clip_norm: float = 0.0,
    amp: bool = True, state: dict | None = None, save: Callable[[dict], None] | None = None,
    progress=None, watch: Callable[[int, nn.Module], None] | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Train with AdamW and a cosine schedule; returns the mean loss parts of every epoch.

    batches(epoch) -> an iterable of batches of known length, drawn from the epoch's own seed, so a
    run resumed from `state` (what `save` was last given) ends in the same weights. `watch` is
    called after every epoch: maps through time. Raises FloatingPointError when the loss diverges.
    """
    device = next(model.parameters()).device
    head = list(model.head.parameters())
    body = [p for p in model.parameters() if all(p is not h for h in head)]
    groups = [{"params": body, "lr": lr}, {"params": head, "lr": lr * head_lr_factor}]
    optimiser = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    start, history = 0, []
    if state:
        start, history = state["epoch"], state["history"]
        for part in ("model", "optimiser", "schedule"):
            {"model": model, "optimiser": optimiser, "schedule": schedule}[part].load_state_dict(
                state[part]
            )
    for epoch in range(start, epochs):
        model.train()
        sums, todo = {}, batches(epoch)
        for i, batch in enumerate(todo):
            images, labels, masks = batch
            images = images.to(device).contiguous(memory_format=torch.channels_last)
            masks = None if masks is None else masks.to(device)
            with autocast(device, amp):
                value, parts = loss(
                    model, (images, labels.to(device), masks), (epoch + i / len(todo)) / epochs
                )
            if not value.isfinite():
                raise FloatingPointError(
                    f"the loss is {value.item()} in epoch {epoch + 1}: lower the learning rate"
                )
            optimiser.zero_grad()
            value.backward()
            if clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimiser.step()
            for name, part in {"loss": value, **parts}.items():
                sums[name] = sums.get(name, 0.0) + part.item() / len(todo)
            if progress:
                progress(loss=value.item())
        schedule.step()
        history.append(sums)
        if watch:
            watch(epoch + 1, model)
        if save and epoch + 1 < epochs:
            parts = {"model": model, "optimiser": optimiser, "schedule": schedule}
            states = {name: part.state_dict() for name, part in parts.items()}
            save({"epoch": epoch + 1, "history": history, **states})
    model.eval()
    return history


class MemoryBatches:
    """Shuffled batches of a split's pictures: random crops, mirrored at random.

    images uint8 (N, 3, S, S), labels (N, K), masks uint8 (N, S, S) or None; sizes (N, 2), crop and
    resize: see `pictures.random_crops` (None: whole pictures). Calling it with an epoch gives that
    epoch's batches; the seed and the epoch alone decide what they are.
    """

    def __init__(self, images: Tensor, labels: Tensor, masks: Tensor | None, size: int, seed: int,
                 sizes: Tensor | None = None, crop: int | None = None,
                 resize: tuple[float, float] = (1.0, 1.0)):  # fmt: skip
        if not len(images) == len(labels) or masks is not None and len(masks) != len(images):
            raise ValueError("images, labels and masks must be equally many")
        self.data, self.size, self.seed = (images, labels, masks), size, seed
        sizes = torch.tensor([images.shape[-2:]] * len(images)) if sizes is None else sizes
        self.crops = (sizes, crop or images.shape[-1], resize)

    def __call__(self, epoch: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        order = torch.randperm(len(self.data[0]), generator=generator)
        flips = torch.rand(len(order), generator=generator) < 0.5
        windows = torch.rand(len(order), 3, generator=generator)
        parts = (part.split(self.size) for part in (order, flips, windows))
        return _Lazy(zip(*parts, strict=True), self.data, self.crops)


class _Lazy(list):
    """A list of (indices, mirror, windows) that turns into a batch when iterated."""

    def __init__(self, plan, data, crops):
        super().__init__(plan)
        self.data, self.crops = data, crops

    def __iter__(self):
        (images, labels, masks), (sizes, crop, resize) = self.data, self.crops
        for i, mirror, windows in super().__iter__():
            x, m = random_crops(
                images[i].float() / 255, None if masks is None else masks[i], sizes[i], windows,
                crop=crop, resize=resize,
            )  # fmt: skip
            x = torch.where(mirror[:, None, None, None], x.flip(-1), x)
            m = None if m is None else torch.where(mirror[:, None, None], m.flip(-1), m)
            yield x, labels[i], m
