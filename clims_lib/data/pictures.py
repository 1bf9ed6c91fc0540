"""Splits as memory-mapped arrays.

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
from torch import Tensor
from tqdm.auto import tqdm


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
            raise ValueError(
                f"picture {i} is {width} x {height} pixels: set data.size >= {max(height, width)}"
            )
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


def in_order(read: Callable[[int], np.ndarray], count: int, title: str) -> Iterable[np.ndarray]:
    """read(0), read(1), ... with a progress bar when there are many."""
    return (read(i) for i in tqdm(range(count), desc=title, disable=count < 1000, leave=False))
