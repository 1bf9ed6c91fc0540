"""The data set of a profile: its folder, and its splits as arrays on disk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from clims_lib.artifacts import key_of, load_tensors, save_tensors
from clims_lib.batches import FILL
from clims_lib.config import Profile
from clims_lib.data.pictures import (
    Rows,
    digest_of,
    in_order,
    read_array,
    sizes_path,
    write_array,
    write_rows,
)
from clims_lib.data.voc import VOCFolder, has_list, read_mask_files
from clims_lib.labels import IGNORE
from clims_lib.miniworld.dataset import write_dataset
from clims_lib.settings import Data
from clims_lib.stage import make_once

PARTS = ("train_labelled", "train_weak")  # of train
ROWS = "rows.npy"


def miniworld_sizes(profile: Profile) -> dict[str, int]:
    """What decides a MiniWorld: profiles that differ here need a data_root each."""
    return {n: getattr(profile.data, n) for n in ("train", "val", "test", "labelled", "size")}


def make_data(profile: Profile) -> Path:
    """Return the data set's folder; MiniWorld is drawn on first use, VOC must be there.

    Raises ValueError where a MiniWorld of other sizes lies.
    """
    root = profile.data_root
    if profile.data.source == "miniworld":
        return write_dataset(root, seed=0, **miniworld_sizes(profile))
    if not (root / "JPEGImages").is_dir():
        raise FileNotFoundError(
            f"no VOC-layout data set at {root}: give its folder with --data-root or "
            "VOC_ROOT, or fetch VOC2012 with clims download voc2012"
        )
    return root


def open_split(profile: Profile, split: str, masks: bool = False, labels: bool = True) -> VOCFolder:
    """One of train, val, test, train_labelled and train_weak, as a VOCFolder.

    "train" is the list `data.train_list`. A data set without train_labelled has its first
    `data.labelled` pictures of a seeded shuffle of train there, and the others in train_weak.
    Raises ValueError when VOC's list does not have the number of pictures that the profile says.
    """
    root = make_data(profile)
    seen = [root / "classes.txt", *(root / "ImageSets").rglob("*.txt")]
    seen += [root / name for name in ("JPEGImages", "SegmentationClass", "SegmentationClassAug")]
    status = [(p, s.st_mtime_ns, s.st_size) for p in seen if p.exists() and (s := p.stat())]
    return _open(root, profile.data, split, masks, labels, tuple(sorted(status)))


@lru_cache(maxsize=32)  # reading VOC's lists of labels takes a while, and every key asks for them
def _open(root: Path, data: Data, split: str, masks: bool, labels: bool, lists: tuple) -> VOCFolder:
    derived = split in PARTS and not has_list(root, split)
    name = data.train_list if split == "train" or derived else split
    folder = VOCFolder(root, name, data.classes, masks=masks, labels=labels)
    expected = getattr(data, name if name in ("val", "test") else "train")
    if expected and split in ("train", "val", "test") and len(folder) != expected:
        raise ValueError(f"{root}: the list {name} has {len(folder)} pictures, not {expected}")
    if derived:
        order = torch.randperm(len(folder), generator=torch.Generator().manual_seed(0)).tolist()
        chosen = order[: data.labelled] if split == PARTS[0] else order[data.labelled :]
        folder.names = tuple(folder.names[i] for i in sorted(chosen))
    return folder


def contents(profile: Profile, split: str, kind: str) -> str:
    """A hash of all that is on disk of a split's images, labels, masks or grounds (kind)."""
    data = open_split(profile, split, masks=kind == "masks", labels=kind == "labels")
    folder = key_of(str(data.root.absolute()))
    return digest_of(data.files(kind), profile.outputs / "digests" / f"{folder}-{kind}.json")


def data_digest(profile: Profile) -> str:
    """A hash of all that a run reads of the data set; "" where there is none yet."""
    if not (profile.data_root / "JPEGImages").is_dir():
        return ""
    splits = ("train", "train_labelled", "train_weak", "val", *profile.data.evaluated)
    kinds = ["images", "labels", "masks"]
    kinds += ["grounds"] if (profile.data_root / "grounds.txt").is_file() else []
    return key_of([contents(profile, s, kind) for s in dict.fromkeys(splits) for kind in kinds])


def subset(profile: Profile, split: str, count: int | None) -> list[int]:
    """The numbers, rising, of `count` of a split's pictures; of all where it has no more, or None.

    data.subsets: "first", as the split lists them, or "drawn": one permutation of the whole split
    by the profile's seed, from its start. Either way a smaller subset is part of a larger one.
    """
    whole = len(open_split(profile, split).names)
    if count is None or count >= whole:
        return list(range(whole))
    if profile.data.subsets == "first":
        return list(range(count))
    drawn = torch.randperm(whole, generator=torch.Generator().manual_seed(profile.seed))
    return sorted(drawn[:count].tolist())


def subset_settings(profile: Profile, split: str, count: int | None) -> list[str]:
    """The settings that decide which pictures `subset` takes; none where it takes all."""
    if count is None or count >= len(open_split(profile, split).names):
        return []
    return ["data.subsets", "seed"] if profile.data.subsets == "drawn" else ["data.subsets"]


def split_folder(profile: Profile, split: str, kind: str = "images") -> Path:
    """The artifact of a split's images, its labels or its masks (kind).

    Of a part of train's pictures there are only their numbers: `rows_of`.
    """
    data = open_split(profile, split, masks=kind == "masks", labels=kind == "labels")
    size, count = profile.data.size, len(data.names)
    rows = rows_of(profile, split, kind) if kind != "labels" else None

    def make(folder: Path) -> None:
        if kind == "labels":
            labels = torch.stack([data.label(i) for i in range(count)])
            save_tensors(folder / "labels.safetensors", {"labels": labels})
            return
        if rows is not None:
            write_rows(folder / ROWS, rows)
            return
        read, fill = (
            (lambda i: data.image(i).numpy(), FILL)
            if kind == "images"
            else (lambda i: np.asarray(data[i].mask), (IGNORE,))
        )
        arrays = in_order(read, count, f"{split} {kind}")
        write_array(folder / f"{kind}.npy", arrays, count, size, fill)

    settings = {"images": ["data.size"], "labels": [], "masks": ["data.size"]}[kind]
    named = [] if kind == "images" else ["data.classes"]
    inputs = {"names": key_of(data.names), kind: contents(profile, split, kind)}
    if rows is not None:
        inputs["rows of"] = key_of(open_split(profile, "train", labels=False).names)
    return make_once(
        profile,
        "splits",
        f"{split}_{kind}",
        make,
        settings=[*settings, *named],
        inputs=inputs,
        code=[VOCFolder],
    )


def rows_of(profile: Profile, split: str, kind: str) -> list[int] | None:
    """The numbers of a split's pictures in train, where all are there with all of train's images
    or masks (kind); None for other splits, and where train lacks some masks."""
    if split not in PARTS:
        return None
    try:
        train = open_split(profile, "train", masks=kind == "masks", labels=False).names
    except ValueError:
        return None
    number, names = (
        {name: i for i, name in enumerate(train)},
        open_split(profile, split, labels=False).names,
    )
    return [number[name] for name in names] if all(name in number for name in names) else None


def read_stored(profile: Profile, split: str, kind: str) -> Tensor:
    """A split's "images" or "masks": a tensor, or, of a part of train, `Rows` of train's."""
    folder = split_folder(profile, split, kind)
    if not (folder / ROWS).is_file():
        return read_array(folder / f"{kind}.npy")
    whole = split_folder(profile, "train", kind)
    return cast(Tensor, Rows(read_array(whole / f"{kind}.npy"), read_array(folder / ROWS)))


def read_images(profile: Profile, split: str) -> Tensor:
    """Pictures uint8 (N, 3, S, S), mapped from disk: a split may be larger than the memory."""
    return read_stored(profile, split, "images")


def read_labels(profile: Profile, split: str) -> Tensor:
    """Image-level labels float (N, K)."""
    folder = split_folder(profile, split, "labels")
    return load_tensors(folder / "labels.safetensors")["labels"]


def read_split(
    profile: Profile, split: str, masks: bool = False
) -> tuple[Tensor, Tensor, Tensor | Any]:  # Any: None without `masks`, as callers know
    """A split: images uint8 (N, 3, S, S), labels (N, K), masks uint8 (N, S, S) or None.

    Images and masks are mapped from disk. Stages that learn from image-level labels leave `masks`
    False: they never open one.
    """
    truth = read_stored(profile, split, "masks") if masks else None
    return read_images(profile, split), read_labels(profile, split), truth


def read_masks(paths: Sequence[Path], side: int) -> Tensor:
    """Mask files on their canvases: uint8 (N, side, side), 255 beyond each picture."""
    masks = torch.full((len(paths), side, side), IGNORE, dtype=torch.uint8)
    for canvas, mask in zip(masks, read_mask_files(paths), strict=True):
        canvas[: mask.shape[0], : mask.shape[1]] = torch.from_numpy(mask)
    return masks


def read_sizes(profile: Profile, split: str) -> Tensor:
    """int32 (N, 2): the height and width of every picture on its canvas."""
    folder = split_folder(profile, split)
    if not (folder / ROWS).is_file():
        return read_array(sizes_path(folder / "images.npy"))
    return read_sizes(profile, "train")[read_array(folder / ROWS)]
