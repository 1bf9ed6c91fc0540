"""What a training step sees: shuffled batches of random crops, mirrored at random.

The seed and the epoch alone decide a batch, so a run that goes on sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clims_lib.labels import IGNORE
from clims_lib.objectives import Batch

FILL = (124, 116, 104)  # beyond a picture: ImageNet's mean colour, a backbone sees about 0 there


def random_crops(
    images: Tensor,
    masks: Tensor | None,
    sizes: Tensor,
    windows: Tensor,
    *,
    crop: int,
    resize: Sequence[float],
) -> tuple[Tensor, Tensor | None]:
    """Scale each picture by a random factor and cut a random crop x crop window out of it.

    images float (B, 3, S, S) in [0, 1], masks uint8 (B, S, S) or None, sizes (B, 2): each picture's
    own height and width; windows (B, 3) in [0, 1): the random numbers (scale, y, x); resize: the
    smallest and largest factor. A picture smaller than its window lies somewhere within it. What
    is beyond is mean colour and 255. Returns float (B, 3, crop, crop) and uint8 (B, crop, crop).
    """
    canvas, (low, high) = images.shape[-1], resize
    if crop == canvas and low == high == 1:
        return images, masks
    scale = low + (high - low) * windows[:, 0]
    window = crop / scale  # in the picture's own pixels
    room = sizes.float() - window[:, None]
    start = room.clamp(max=0) + windows[:, 1:] * room.abs()
    middle = (2 * start + window[:, None]) / canvas - 1
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = window / canvas
    theta[:, 0, 2], theta[:, 1, 2] = middle[:, 1], middle[:, 0]
    theta = theta.to(images.device)
    grid = F.affine_grid(theta, [len(images), 3, crop, crop], align_corners=False)
    fill = torch.tensor(FILL, device=images.device).view(3, 1, 1) / 255
    images = F.grid_sample(images - fill, grid, align_corners=False) + fill
    if masks is not None:
        known = masks[:, None].float() - IGNORE  # what lies beyond becomes 0, so 255
        cut = F.grid_sample(known, grid, mode="nearest", align_corners=False)
        masks = (cut[:, 0] + IGNORE).round().to(torch.uint8)
    return images, masks


class MemoryBatches:
    """Shuffled batches of a split's pictures: random crops, mirrored at random.

    images uint8 (N, 3, S, S), labels (N, K), masks uint8 (N, S, S) or None; sizes (N, 2), crop and
    resize: see `pictures.random_crops` (None: whole pictures). Calling it with an epoch gives that
    epoch's batches; the seed and the epoch alone decide what they are. A last batch of one picture
    is left out.
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
    ):
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

    def __init__(self, plan: Iterable, data: tuple, crops: tuple):
        super().__init__(plan)
        self.data, self.crops = data, crops

    def __iter__(self) -> Iterator[Batch]:
        (images, labels, masks), (sizes, crop, resize) = self.data, self.crops
        for i, mirror, windows in super().__iter__():
            x, m = random_crops(
                images[i].float() / 255,
                None if masks is None else masks[i],
                sizes[i],
                windows,
                crop=crop,
                resize=resize,
            )
            x = torch.where(mirror[:, None, None, None], x.flip(-1), x)
            m = None if m is None else torch.where(mirror[:, None, None], m.flip(-1), m)
            yield x, labels[i], m
