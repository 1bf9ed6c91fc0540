"""Crops as CCT's release makes them: a drawn longer side, bicubic, and space at right and bottom.

`batches.random_crops` scales by a drawn factor instead, bilinearly, and leaves space on all sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from clims_lib.batches import FILL
from clims_lib.devices import cores, place
from clims_lib.labels import IGNORE


class Window(NamedTuple):
    """A picture's longer side after scaling, where the crop starts, and whether it is mirrored."""

    long_side: int
    top: int
    left: int
    mirror: bool


def scaled_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Height and width of a picture whose longer side becomes `long_side`, rounded half up."""
    if height > width:
        return long_side, int(long_side * width / height + 0.5)
    return int(long_side * height / width + 0.5), long_side


def draw_window(height: int, width: int, *, base: int, crop: int, generator: Generator) -> Window:
    """A random window; the longer side is drawn from base / 2 .. 2 base (released: base 400)."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    long_side = draw(int(base * 0.5), int(base * 2.0))
    height, width = scaled_size(height, width, long_side)
    top, left = draw(0, max(height - crop, 0)), draw(0, max(width - crop, 0))
    return Window(long_side, top, left, draw(0, 1) == 1)


def scaled_crop(
    image: Tensor, mask: Tensor | None, window: Window, crop: int
) -> tuple[Tensor, Tensor | None]:
    """Scale, cut and mirror a picture uint8 (3, H, W) and its mask uint8 (H, W) or None.

    Pillow's bicubic for the picture, the nearest label for the mask. What a picture lacks to
    crop x crop, at its right and bottom, is mean colour and 255. Returns uint8 (3, crop, crop) and
    (crop, crop).
    """
    height, width = image.shape[-2:]
    size = scaled_size(height, width, window.long_side)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture = picture.resize(size[::-1], Image.Resampling.BICUBIC)
    cut = (..., slice(window.top, window.top + crop), slice(window.left, window.left + crop))
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[cut]
    out = torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1).repeat(1, crop, crop)
    out[:, : x.shape[-2], : x.shape[-1]] = x
    if mask is not None:
        rows, columns = (_nearest(n, m) for n, m in zip(mask.shape, size, strict=True))
        m = mask[rows][:, columns][cut]
        mask = torch.full((crop, crop), IGNORE, dtype=torch.uint8)
        mask[: m.shape[0], : m.shape[1]] = m
        mask = mask.flip(-1) if window.mirror else mask
    return out.flip(-1) if window.mirror else out, mask


class ScaledBatches:
    """Shuffled batches of such crops, as CCT's release reads them.

    images uint8 (N, 3, S, S), masks uint8 (N, S, S) or None, sizes (N, 2): each picture's own
    height and width. Calling it with a step gives the batches (float (B, 3, crop, crop) in [0, 1],
    masks) from that step on, without end. steps_per_epoch: how long an epoch lasts, by default all
    pictures once. The release's lasts as long as the unlabelled pictures: the fewer labelled
    batches then come again and again with the very crops of their first time, until the epoch ends.
    The last batch may be smaller; one of a single picture is left out. device: where batches go;
    scaled by Pillow, they travel as bytes.
    """

    def __init__(
        self,
        images: Tensor,
        masks: Tensor | None,
        size: int,
        seed: int,
        sizes: Tensor,
        *,
        base: int = 400,
        crop: int = 320,
        steps_per_epoch: int | None = None,
        device: torch.device | str = "cpu",
    ):
        # with its number: the thread that reads batches ahead knows only the first GPU
        self.device = torch.empty(0, device=device).device
        self.data, self.size, self.seed = (images, masks, sizes), size, seed
        self.form = {"base": base, "crop": crop}
        self.count = len(images) - (len(images) > 1 == len(images) % size)
        self.batches = math.ceil(self.count / size)
        self.steps_per_epoch = steps_per_epoch or self.batches

    def __call__(self, start: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        images, masks, sizes = self.data
        epoch, crop = -1, self.form["crop"]

        def cut(drawn: tuple[int, Window]) -> tuple[Tensor, Tensor | None]:
            i, window = drawn
            h, w = sizes[i].tolist()
            mask = None if masks is None else masks[i, :h, :w]
            return scaled_crop(images[i, :, :h, :w], mask, window, crop)

        with ThreadPoolExecutor(min(8, cores())) as pool:  # Pillow works outside Python's lock
            for step in count(start):
                if step // self.steps_per_epoch != epoch:
                    epoch = step // self.steps_per_epoch
                    plan = self._draw(epoch)
                cuts = list(pool.map(cut, plan[step % self.steps_per_epoch % self.batches]))
                x = place(torch.stack([x for x, _ in cuts]), self.device).float() / 255
                known = [m for _, m in cuts if m is not None]
                m = place(torch.stack(known), self.device) if known else None
                yield x.contiguous(memory_format=torch.channels_last), m

    def _draw(self, epoch: int) -> list[list[tuple[int, Window]]]:
        """Which pictures and windows, batch by batch; seed and epoch alone decide."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        order = torch.randperm(len(self.data[0]), generator=generator)[: self.count].tolist()
        sizes = self.data[2].tolist()
        plan = [(i, draw_window(*sizes[i], **self.form, generator=generator)) for i in order]
        return [plan[i : i + self.size] for i in range(0, self.count, self.size)]


def _nearest(old: int, new: int) -> Tensor:
    """For each of `new` positions the one of `old` that it shows, OpenCV's way."""
    places = torch.arange(new, dtype=torch.float64) * (1 / (new / old))
    return places.floor().long().clamp(max=old - 1)
