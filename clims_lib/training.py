"""Training CAM networks: one loop, and one short loss for each method.

cam: image-level labels only. puzzle_cam: whole and tiles must agree (Jo and Yu, ICIP 2021).
clims: CLIP judges what the maps cut out. full_masks: the ceiling, not weakly supervised.
Each `*_loss` makes a function (network, batch, progress in [0, 1]) -> (loss, its parts).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clims_lib.clip_model import autocast
from clims_lib.clip_model import normalise as normalise_for_clip
from clims_lib.losses import area_loss, clims_loss, similarities
from clims_lib.pictures import random_crops
from clims_lib.team import ALONE, Team

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


def mask_loss() -> Loss:
    """Cross entropy of label scores (B, K + 1, H, W) with masks (B, H, W), 255 left out."""

    def loss(model: nn.Module, batch: Batch, progress: float):
        images, _, masks = batch
        entropy = F.cross_entropy(model(images).float(), masks.long(), ignore_index=255)
        return entropy, {"ce": entropy}

    return loss


def train(
    model: nn.Module, loss: Loss, batches: Callable[[int], list[Batch]], *, epochs: int, lr: float,
    head_lr_factor: float = 1.0, weight_decay: float = 1e-4, clip_norm: float = 0.0,
    amp: bool = True, accumulate: int = 1, frozen_norm: bool = False, team: Team = ALONE,
    state: dict | None = None, save: Callable[[dict], None] | None = None,
    progress=None, watch: Callable[[int, nn.Module], None] | None = None,
) -> list[dict[str, float]]:  # fmt: skip
    """Train with AdamW and a cosine schedule; returns the mean loss parts of every epoch.

    batches(epoch) -> an iterable of batches of known length, drawn from the epoch's own seed, so a
    run resumed from `state` (what `save` was last given) ends in the same weights. accumulate: in
    how many pieces a batch goes through the network (small cards); frozen_norm: batch normalisation
    keeps its running statistics, so that neither pieces nor processes change a gradient; team: the
    processes that share each batch. `watch` is called after every epoch: maps through time. Raises
    FloatingPointError when the loss diverges, RuntimeError when the memory of the GPU is too small.
    """
    device = next(model.parameters()).device
    head = list(model.head.parameters())
    body = [p for p in model.parameters() if all(p is not h for h in head)]
    groups = [{"params": body, "lr": lr}, {"params": head, "lr": lr * head_lr_factor}]
    optimiser = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    objects = {"model": model, "optimiser": optimiser, "schedule": schedule}
    start, history = 0, []
    if state:
        start, history = state["epoch"], state["history"]
        for name, one in objects.items():
            one.load_state_dict(state[name])
    for epoch in range(start, epochs):
        model.train()
        if frozen_norm:
            freeze_norm(model.backbone)
        sums, todo = {}, batches(epoch)
        for i, batch in enumerate(prefetch(todo, device)):
            optimiser.zero_grad()
            values: dict[str, float] = {}
            for piece, weight in pieces(batch, accumulate, team):
                try:
                    with autocast(device, amp):
                        value, parts = loss(model, piece, (epoch + i / len(todo)) / epochs)
                    (weight * team.size * value).backward()  # times size: the team takes the mean
                except torch.OutOfMemoryError as error:
                    raise RuntimeError(
                        f"{len(piece[0])} pictures of {piece[0].shape[-1]} pixels do not fit on "
                        f"{device}: raise compute.accumulate (now {accumulate}), or lower the "
                        "method's batch or augment.crop"
                    ) from error
                for name, part in {"loss": value, **parts}.items():
                    values[name] = values.get(name, 0.0) + weight * part.item()
            if not math.isfinite(values["loss"]):
                raise FloatingPointError(
                    f"the loss is {values['loss']} in epoch {epoch + 1}: lower the learning rate"
                )
            team.average(p.grad for p in model.parameters() if p.grad is not None)
            if clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimiser.step()
            for name, part in values.items():
                sums[name] = sums.get(name, 0.0) + part / len(todo)
            if progress:
                progress(loss=values["loss"])
        schedule.step()
        team.average(b for b in model.buffers() if b.is_floating_point())
        history.append(team.total(sums))
        if watch and team.rank == 0:
            watch(epoch + 1, model)
        if save and team.rank == 0 and epoch + 1 < epochs:
            states = {name: one.state_dict() for name, one in objects.items()}
            save({"epoch": epoch + 1, "history": history, **states})
    model.eval()
    return history


def freeze_norm(model: nn.Module) -> None:
    """Batch normalisation by running statistics, which stay as they are."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def pieces(batch: Batch, accumulate: int, team: Team) -> Iterator[tuple[Batch, float]]:
    """(piece, its share of the batch's pictures) of this process: the weights of all pieces of all
    processes add up to 1. A process that the batch is too small for gets a piece of weight 0."""
    if team.size == 1 and accumulate == 1:
        yield batch, 1.0
        return
    count = len(batch[0])
    mine = torch.arange(team.rank, count, team.size)
    weights = len(mine) / count
    if not len(mine):
        mine, weights = torch.zeros(1, dtype=torch.long), 0.0
    for some in mine.chunk(accumulate):
        here = some.to(batch[0].device)
        images, *others = (None if t is None else t[here] for t in batch)
        images = images.contiguous(memory_format=torch.channels_last)
        yield (images, *others), weights * len(some) / len(mine)


def prefetch(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on the device, pictures channels last; on a GPU the next one is read meanwhile."""

    def ready(batch: Batch) -> Batch:
        pin = device.type == "cuda"
        images, *others = (t.pin_memory() if pin and t is not None else t for t in batch)
        images = images.to(device, non_blocking=True)
        rest = (None if t is None else t.to(device, non_blocking=True) for t in others)
        return images.contiguous(memory_format=torch.channels_last), *rest

    if device.type != "cuda":
        yield from map(ready, batches)
        return
    todo = iter(batches)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, todo, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, todo, None)
            yield ready(batch)


class MemoryBatches:
    """Shuffled batches of a split's pictures: random crops, mirrored at random.

    images uint8 (N, 3, S, S), labels (N, K), masks uint8 (N, S, S) or None; sizes (N, 2), crop and
    resize: see `pictures.random_crops` (None: whole pictures). Calling it with an epoch gives that
    epoch's batches; the seed and the epoch alone decide what they are. A last batch of one picture
    is left out.
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
        if len(order) > 1 == len(order) % self.size:  # batch normalisation needs two
            order = order[:-1]
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
