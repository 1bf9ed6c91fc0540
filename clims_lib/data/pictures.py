"""Splits as memory-mapped arrays.

Every picture lies in the upper left corner of a square canvas; the rest is ImageNet's mean colour
and 255 in the masks. So nothing is resized, pictures of all sizes go through the same code in
batches, no score counts the rest, and only what is looked at is read from the disk.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from clims_lib.artifacts import read_json, write_json


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


def write_rows(path: Path, rows: list[int]) -> None:
    """Write numbers of rows as .npy, for `Rows`."""
    np.save(path, np.array(rows, np.int64))


class Rows:
    """Some rows of an array on disk, in an order: what is indexed is read, and nothing else.

    Indices are a tensor's, the first of them counts rows. `shape` and `len` are those of the rows.
    """

    def __init__(self, whole: Tensor, rows: Tensor):
        self.whole, self.rows = whole, rows
        self.shape, self.dtype = torch.Size((len(rows), *whole.shape[1:])), whole.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Tensor:
        first, *others = index if isinstance(index, tuple) else (index,)
        return self.whole[(self.rows[first], *others)]


def digest_of(files: Iterable[Path], known: Path) -> str:
    """A hash of the files' names and contents, in their order.

    known: a JSON file that remembers each one's hash; only those are read whose size, time or inode
    have changed since, so that thousands of pictures cost milliseconds.
    """
    files = list(files)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        status = [(s.st_size, s.st_mtime_ns, s.st_ino) for s in pool.map(Path.stat, files)]
    remembered = _remembered(known)
    todo = [
        i for i, file in enumerate(files) if remembered.get(str(file), [])[:3] != list(status[i])
    ]
    if todo:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(lambda i: _hash_of(files[i]), todo)
            title = f"reading {files[0].parent.name}"
            found = tqdm(found, title, len(todo), disable=len(todo) < 5000)
            for i, digest in zip(todo, found, strict=True):
                remembered[str(files[i])] = [*status[i], digest]
        # a file of this very moment may change once more within the clock's tick
        old = time.time_ns() - 2_000_000_000
        write_json(known, {name: entry for name, entry in remembered.items() if entry[1] < old})
    listed = "\n".join(f"{file.name} {remembered[str(file)][3]}" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


_memory: dict[Path, tuple[int, dict[str, list]]] = {}


def _remembered(known: Path) -> dict[str, list]:
    """What a file of known hashes holds; kept in memory while the file stays as it is."""
    version = known.stat().st_mtime_ns if known.is_file() else 0
    if _memory.get(known, (-1,))[0] != version:
        try:
            _memory[known] = version, read_json(known) if version else {}
        except ValueError:  # it only saves time
            _memory[known] = version, {}
    return _memory[known][1]


def _hash_of(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:32]


def in_order(read: Callable[[int], np.ndarray], count: int, title: str) -> Iterable[np.ndarray]:
    """read(0), read(1), ... with a progress bar when there are many."""
    return (read(i) for i in tqdm(range(count), desc=title, disable=count < 1000, leave=False))
