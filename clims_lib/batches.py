"""What a training step sees: shuffled batches of random crops, mirrored at random.

The seed and the step alone decide a batch, so a run that goes on sees what it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clims_lib.devices import ALONE, Team, place
from clims_lib.labels import IGNORE

FILL = (124, 116, 104)  # beyond a picture: ImageNet's mean colour, a backbone sees about 0 there


def random_crops(
    images: Tensor,
    masks: Tensor | None,
    sizes: Tensor,
    windows: Tensor,
    *,
    crop: int,
    resize: Sequence[float],
    resize_of: str = "factor",
) -> tuple[Tensor, Tensor | None]:
    """Scale each picture by a random factor and cut a random crop x crop window out of it.

    images float (B, 3, S, S) in [0, 1], masks uint8 (B, S, S) or None, sizes (B, 2): each picture's
    own height and width; windows (B, 3) in [0, 1): the random numbers (scale, y, x); resize: the
    smallest and largest factor or, of "longer_side" as published, how many whole pixels this gets.
    A picture smaller than its window lies somewhere within it. What is beyond is mean colour and
    255. Returns float (B, 3, crop, crop) and uint8 (B, crop, crop).
    """
    canvas, (low, high) = images.shape[-1], resize
    if crop == canvas and low == high == 1 and resize_of == "factor":
        return images, masks
    if resize_of == "factor":
        scale = low + (high - low) * windows[:, 0]
    else:
        side = (low + (high + 1 - low) * windows[:, 0]).floor()
        scale = side / sizes.amax(1)
    window = crop / scale  # in the picture's own pixels
    room = sizes.float() - window[:, None]
    start = room.clamp(max=0) + windows[:, 1:] * room.abs()
    middle = (2 * start + window[:, None]) / canvas - 1
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = window / canvas
    theta[:, 0, 2], theta[:, 1, 2] = middle[:, 1], middle[:, 0]
    theta = place(theta, images.device)
    grid = F.affine_grid(theta, [len(images), 3, crop, crop], align_corners=False)
    fill = place(torch.tensor(FILL), images.device).view(3, 1, 1) / 255
    images = F.grid_sample(images - fill, grid, align_corners=False) + fill
    if masks is not None:
        known = masks[:, None].float() - IGNORE  # what lies beyond becomes 0, so 255
        cut = F.grid_sample(known, grid, mode="nearest", align_corners=False)
        masks = (cut[:, 0] + IGNORE).round().to(torch.uint8)
    return images, masks


def augment(
    images: Tensor,
    masks: Tensor | None,
    sizes: Tensor,
    mirror: Tensor,
    windows: Tensor,
    *,
    crop: int,
    resize: Sequence[float],
    resize_of: str = "factor",
) -> tuple[Tensor, Tensor | None]:
    """Random crops, some of them mirrored, of pictures uint8 (B, 3, S, S) and masks or None.

    mirror: booleans (B,); the rest: see `random_crops`. The work is done where the pictures are.
    Returns float (B, 3, crop, crop) in [0, 1], channels last in memory, and uint8 (B, crop, crop).
    """
    mirror = place(mirror, images.device)
    form = partial(random_crops, crop=crop, resize=resize, resize_of=resize_of)
    x, m = form(images.float() / 255, masks, sizes, windows)
    x = torch.where(mirror[:, None, None, None], x.flip(-1), x)
    m = None if m is None else torch.where(mirror[:, None, None], m.flip(-1), m)
    return x.contiguous(memory_format=torch.channels_last), m


class MemoryBatches:
    """Shuffled batches of a split's pictures, epoch by epoch: random crops, mirrored at random.

    images uint8 (N, 3, S, S), labels (N, K), masks uint8 (N, S, S) or None; sizes (N, 2), crop and
    resize: see `random_crops` (None: whole pictures). device: where they are cut and mirrored;
    pictures and masks travel there as they are, a quarter of the bytes. Calling it with a step
    gives the batches (images, labels, masks) from that step on, without end; seed and epoch alone
    decide what they are. `steps_per_epoch` says how many make an epoch. A last batch of one picture
    is left out, and with drop_last any last batch that is smaller. team: of each batch only this
    process's pictures are read; where it has none, they come as they are, none. Raises ValueError
    when images, labels and masks are not equally many.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        masks: Tensor | None,
        size: int,
        seed: int,
        sizes: Tensor | None = None,
        crop: int | None = None,
        resize: Sequence[float] = (1.0, 1.0),
        resize_of: str = "factor",
        drop_last: bool = False,
        device: torch.device | str = "cpu",
        team: Team = ALONE,
    ):
        if not len(images) == len(labels) or masks is not None and len(masks) != len(images):
            raise ValueError("images, labels and masks must be equally many")
        self.data, self.size, self.seed = (images, labels, masks), size, seed
        self.pictures, self.team = len(images), team
        self.sizes = _whole(images) if sizes is None else sizes
        form = {"crop": crop or images.shape[-1], "resize": resize, "resize_of": resize_of}
        self.augment = _augment_on(device, form)
        self.count, self.steps_per_epoch = epoch_of(len(images), size, drop_last)

    def __call__(self, start: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        images, labels, masks = self.data
        first, done = divmod(start, self.steps_per_epoch)
        for epoch in count(first):
            plan = self._draw(epoch)
            for drawn in islice(plan, done if epoch == first else 0, None):
                i, mirror, windows = (part[self.team.rank :: self.team.size] for part in drawn)
                x, m = images[i], None if masks is None else masks[i]
                if len(i):
                    x, m = self.augment(x, m, self.sizes[i], mirror, windows)
                yield x, labels[i], m

    def _draw(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Which pictures, which of them mirrored, which windows: batch by batch."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        order = torch.randperm(len(self.data[0]), generator=generator)[: self.count]
        mirror = torch.rand(self.count, generator=generator) < 0.5
        windows = torch.rand(self.count, 3, generator=generator)
        return zip(*(part.split(self.size) for part in (order, mirror, windows)), strict=True)


def epoch_of(pictures: int, size: int, drop_last: bool = False) -> tuple[int, int]:
    """How many of the pictures an epoch shows, and in how many batches of a size."""
    left = pictures % size
    drop = drop_last and pictures > left or pictures > 1 == left  # batch norms need two
    return pictures - left * drop, math.ceil((pictures - left * drop) / size)


class DrawnBatches:
    """Batches of equal size whose pictures are drawn for all steps at once, as CCT sees them.

    Like `MemoryBatches`, but no batch is smaller at the end of an epoch, and they end after `steps`
    steps. Calling it with a step gives the batches (images, masks) from that step on.
    """

    def __init__(
        self,
        images: Tensor,
        masks: Tensor | None,
        size: int,
        steps: int,
        seed: int,
        sizes: Tensor | None = None,
        crop: int | None = None,
        resize: Sequence[float] = (1.0, 1.0),
        resize_of: str = "factor",
        device: torch.device | str = "cpu",
    ):
        generator = torch.Generator().manual_seed(seed)
        order = draw_order(len(images), size, steps, generator)
        mirror = torch.rand(order.shape, generator=generator) < 0.5
        self.plan = order, mirror, torch.rand((*order.shape, 3), generator=generator)
        self.data = images, masks, _whole(images) if sizes is None else sizes
        form = {"crop": crop or images.shape[-1], "resize": resize, "resize_of": resize_of}
        self.augment = _augment_on(device, form)

    def __call__(self, start: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        images, masks, sizes = self.data
        for i, mirror, windows in zip(*(part[start:] for part in self.plan), strict=True):
            few = None if masks is None else masks[i]
            yield self.augment(images[i], few, sizes[i], mirror, windows)


def draw_order(count: int, batch_size: int, steps: int, generator: torch.Generator) -> Tensor:
    """Which pictures each step sees: int64 (steps, batch_size), every picture once an epoch.

    Raises ValueError for a number below 1.
    """
    if min(count, batch_size, steps) < 1:
        raise ValueError(f"count {count}, batch_size {batch_size}, steps {steps}: all must be >= 1")
    epochs = math.ceil(batch_size * steps / count)
    order = [torch.randperm(count, generator=generator) for _ in range(epochs)]
    return torch.cat(order)[: batch_size * steps].view(steps, batch_size)


def _augment_on(
    device: torch.device | str, form: dict[str, Any]
) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """`augment` of pictures and masks in memory, on a device; form: its keywords."""
    # with its number: the thread that reads batches ahead knows only the first GPU
    there = torch.empty(0, device=device).device

    def cut(images: Tensor, masks: Tensor | None, *how: Tensor) -> tuple[Tensor, Tensor | None]:
        masks = None if masks is None else place(masks, there)
        return augment(place(images, there), masks, *how, **form)

    return cut


def _whole(images: Tensor) -> Tensor:
    """The sizes (N, 2) of pictures that fill their canvas."""
    return torch.tensor([images.shape[-2:]] * len(images))
