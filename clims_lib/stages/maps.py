"""Activation maps on disk: a trained network's, and what a CRF makes of them.

One <name>.npz a picture holds `classes` (uint8, n: the present classes' labels, from 1) and `maps`
(float16, n x h x w: their activations before normalisation, one value for inference.stride
pixels). NumPy alone reads them. Pictures go through in batches, so memory does not grow with their
number, and an interrupted run goes on with the pictures that it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from clims_lib import clip_model, crf
from clims_lib.artifacts import atomic_path
from clims_lib.cam import fold_batch_norms, multi_scale_cam
from clims_lib.config import Profile
from clims_lib.data.splits import (
    open_split,
    read_images,
    read_labels,
    read_sizes,
    split_folder,
    subset,
    subset_settings,
)
from clims_lib.devices import device_of, explains_out_of_memory
from clims_lib.stage import make_once
from clims_lib.stages.methods import METHODS, activation_of
from clims_lib.stages.networks import load_network, train_cam
from clims_lib.stages.untrained import code_of_network

GROUP_PIXELS = 2**17  # of small pictures that go through the CRF together
Maps = Callable[[Tensor], Tensor]  # pictures -> maps


def network_maps(profile: Profile, method: str) -> Maps:
    """Load a network: pictures uint8 (B, 3, H, W) -> maps float32 (B, K, H/stride, W/stride)."""
    model, device = fold_batch_norms(load_network(profile, method)), device_of(profile)

    def maps_of(images: Tensor) -> Tensor:
        x = (images.to(device).float() / 255).contiguous(memory_format=torch.channels_last)
        with explains_out_of_memory(device, "lower inference.batch"):
            return maps_by(profile, method, model, x).float().cpu()

    return maps_of


def maps_by(profile: Profile, method: str, model: torch.nn.Module, x: Tensor) -> Tensor:
    """A network's maps of pictures (B, 3, H, W) in [0, 1], as [inference] has them made."""
    how = profile.inference
    with clip_model.autocast(x.device, not profile.compute.full_precision):
        return multi_scale_cam(
            model,
            x,
            scales=how.scales,
            flip=how.flip,
            activation=activation_of(profile, method),
            stride=how.stride,
            rescale=how.rescale,
            reduction=how.reduction,
            grid=how.grid,
        )


def picture_maps(profile: Profile, method: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Load a network: pictures uint8 (B, 3, S, S) on their canvas, their own sizes (B, 2) -> maps
    (B, K, S / stride, S / stride), of the canvas or of each picture: inference.seen."""
    maps_of, how = network_maps(profile, method), profile.inference
    if how.seen == "picture":
        return lambda images, sizes: one_by_one(maps_of, images, sizes, how.stride)
    return lambda images, sizes: maps_of(images)


def network_cams(profile: Profile, method: str, split: str, count: int | None = None) -> Path:
    """The folder of a network's own maps of `count` of a split's pictures, one file each."""
    chosen = subset(profile, split, count)

    def make(folder: Path) -> None:
        images, sizes = read_images(profile, split), read_sizes(profile, split)

        def load() -> Callable[[list[int]], Tensor]:
            maps_of = picture_maps(profile, method)
            return lambda some: maps_of(images[some], sizes[some])

        write_cams(profile, folder, split, chosen, load)

    made = from_network(profile, method, split)
    made["settings"] += subset_settings(profile, split, count)
    made["inputs"]["count"] = len(chosen)
    return make_once(profile, "cams", f"{method}_{split}", make, **made)


def one_by_one(maps_of: Maps, images: Tensor, sizes: Tensor, stride: int) -> Tensor:
    """Maps (B, K, S / stride, S / stride) of pictures uint8 (B, 3, S, S) on their canvas.

    Each goes through the network by itself, at its own size (B, 2); beyond it its edge goes on.
    """
    side, found = -(-images.shape[-1] // stride), []
    for image, (height, width) in zip(images, sizes.tolist(), strict=True):
        maps = maps_of(image[None, :, :height, :width])
        beyond = (0, side - maps.shape[-1], 0, side - maps.shape[-2])
        found.append(F.pad(maps, beyond, mode="replicate"))
    return torch.cat(found)


def from_network(profile: Profile, method: str, split: str) -> dict:
    """What a network's maps are made from, for `make_once`: of stages that use some of these maps,
    too, since how many others lie beside them changes nothing."""
    activation = METHODS[method].maps
    return {
        "settings": [
            *([activation] if "." in activation else []),
            *(f"inference.{n}" for n in ("scales", "flip", "seen", "rescale", "reduction", "grid")),
            "inference.stride",
            "compute.full_precision",
        ],
        "inputs": {
            "network": train_cam(profile, method),
            "images": split_folder(profile, split),
            "labels": split_folder(profile, split, "labels"),
            "activation": activation,
        },
        "code": [network_cams, *code_of_network(method)],
    }


def write_cams(
    profile: Profile,
    folder: Path,
    split: str,
    chosen: Sequence[int],
    load: Callable[[], Callable[[list[int]], Tensor]],
) -> None:
    """Write the maps of some of a split's pictures into a folder, those that it lacks.

    load() -> a function from numbers of pictures to their maps (B, K, S / stride, S / stride); it
    is called only when something is missing.
    """
    how, names = profile.inference, open_split(profile, split).names
    todo = [i for i in chosen if not (folder / f"{names[i]}.npz").is_file()]
    if not todo:
        return
    maps_of, chunks = load(), [todo[i : i + how.batch] for i in range(0, len(todo), how.batch)]
    labels, sizes = read_labels(profile, split), read_sizes(profile, split)
    title = f"maps of {folder.name.rpartition('-')[0]}"
    for chunk in tqdm(chunks, title, leave=False, disable=len(todo) < 500):
        for i, cams in zip(chunk, maps_of(chunk), strict=True):
            write_cam(folder / f"{names[i]}.npz", cams, labels[i], sizes[i], how.stride)


def looked_at(profile: Profile) -> int:
    """How many train pictures thresholds look at: they share their maps."""
    return max(profile.inference.chosen_on, profile.crf.chosen_on)


def write_cam(path: Path, cams: Tensor, label: Tensor, size: Tensor, stride: int) -> None:
    """Write one picture's present maps; cams (K, h, w) of its canvas, size: its own (H, W)."""
    height, width = (-(-int(side) // stride) for side in size)
    present = label.nonzero()[:, 0]
    with atomic_path(path, durable=False) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            classes=(present + 1).to(torch.uint8).numpy(),
            maps=cams[present, :height, :width].half().numpy(),
        )


def read_cam(path: Path, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """(labels of the present classes int64 (n,), their maps float32 (n, H, W) at `size`)."""
    with np.load(path, allow_pickle=False) as content:
        classes = torch.from_numpy(content["classes"]).long()
        maps = torch.from_numpy(content["maps"]).float()
    return classes, enlarge(maps, stride)[:, : size[0], : size[1]]


def read_small(profile: Profile, path: Path) -> Tensor:
    """All maps of a picture, float32 (K, S / stride, S / stride) on its canvas, 0 where absent."""
    side = profile.data.size // profile.inference.stride
    maps = torch.zeros(len(profile.data.classes), side, side)
    with np.load(path, allow_pickle=False) as content:
        kept = torch.from_numpy(content["maps"]).float()
        present = torch.from_numpy(content["classes"]).long() - 1
    maps[present, : kept.shape[1], : kept.shape[2]] = kept
    return maps


def enlarge(maps: Tensor, stride: int) -> Tensor:
    """Maps (..., h, w) -> (..., stride h, stride w)."""
    flat = maps.reshape(1, -1, *maps.shape[-2:])
    size = [stride * side for side in maps.shape[-2:]]
    if not flat.shape[1]:
        return maps.new_zeros(*maps.shape[:-2], *size)
    larger = F.interpolate(flat, size, mode="bilinear", align_corners=False)
    return larger.view(*maps.shape[:-2], *size)


CRF_SETTINGS = (
    "sharpness",
    "bilateral_weight",
    "bilateral_sxy",
    "bilateral_srgb",
    "gaussian_weight",
    "gaussian_sxy",
    "iterations",
)
REFINING = tuple(f"crf.{name}" for name in CRF_SETTINGS)  # what `refine` reads


def refine(
    profile: Profile, images: Tensor, cams: Tensor, thresholds: Sequence[float], **changes: Any
) -> Tensor:
    """CRF masks uint8 (B, T, H, W) of normalised maps (B, n, H, W) at each threshold, with the
    profile's settings, some changed."""
    settings = {name: getattr(profile.crf, name) for name in CRF_SETTINGS} | changes
    together, device = max(1, GROUP_PIXELS // images[0, 0].numel()), device_of(profile)
    return torch.cat(
        [
            crf.refine_at(x.to(device).float() / 255, m.to(device), thresholds, **settings).cpu()
            for x, m in zip(images.split(together), cams.split(together), strict=True)
        ]
    )
