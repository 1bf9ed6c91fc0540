"""Splits as memory-mapped arrays, and the random crops that training takes from them.

Every picture lies in the upper left corner of a square canvas; the rest is ImageNet's mean colour
and 255 in the masks. So nothing is resized, pictures of all sizes go through the same code in
batches, no score counts the rest, and only what is looked at is read from the disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from clims_lib.metrics import IGNORE

FILL = (124, 116, 104)  # a backbone sees about 0 there


def write_array(
    path: Path, parts: Iterable[np.ndarray], count: int, side: int, fill: tuple[int, ...]
) -> None:
    """Write arrays (C, h, w) or (h, w) uint8 into one .npy (count, C, side, side) or without C.

    Also writes <path>_sizes.npy, int32 (count, 2): each one's own height and width. Raises
    ValueError naming the first one that is larger than the canvas.
    """
    colours = np.array(fill, np.uint8).reshape(-1, 1, 1) if len(fill) > 1 else np.uint8(fill[0])
    shape = (count, len(fill), side, side) if len(fill) > 1 else (count, side, side)
    out = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    sizes = np.zeros((count, 2), np.int32)
    for i, part in enumerate(parts):
        height, width = part.shape[-2:]
        if max(height, width) > side:
            raise ValueError(f"picture {i} is {width} x {height} pixels: set data.size >= "
                             f"{max(height, width)}")  # fmt: skip
        out[i] = colours
        out[i, ..., :height, :width] = part
        sizes[i] = height, width
    out.flush()
    np.save(sizes_path(path), sizes)


def sizes_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}_sizes.npy")


def read_array(path: Path) -> Tensor:
    """A tensor backed by the file: what is not looked at is not read; writes do not reach it."""
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def digest_of(files: Iterable[Path]) -> str:
    """Which files these are, by name and length: tells a changed data set from the same one."""
    listed = "\n".join(f"{path.name} {path.stat().st_size}" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def random_crops(
    images: Tensor, masks: Tensor | None, sizes: Tensor, windows: Tensor, *,
    crop: int, resize: tuple[float, float],
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
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


def in_order(read: Callable[[int], np.ndarray], count: int, title: str) -> Iterable[np.ndarray]:
    """read(0), read(1), ... with a progress bar when there are many."""
    return (read(i) for i in tqdm(range(count), desc=title, disable=count < 1000, leave=False))
