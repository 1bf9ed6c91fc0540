"""The maps of every method, the entry to all of them: a network's own, or after a random walk."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from clims_lib.config import Profile
from clims_lib.stages.maps import enlarge, from_network, network_cams, picture_maps
from clims_lib.stages.methods import row_of
from clims_lib.stages.networks import train_cam
from clims_lib.stages.walk import from_walk, load_walk, train_affinity, walk_cams


def train_maps(profile: Profile, method: str) -> Path:
    """Train what the method's maps need; returns the folder of what was trained last."""
    row = row_of(method)
    return (train_affinity if row.walk else train_cam)(profile, row.method)


def make_cams(profile: Profile, method: str, split: str, count: int | None = None) -> Path:
    """The folder of a method's maps of a split's first `count` pictures, one file each.

    method: "clims", or "clims_walk". What is in a file is told in maps.py.
    """
    row = row_of(method)
    return (walk_cams if row.walk else network_cams)(profile, row.method, split, count)


def made_from(profile: Profile, method: str, split: str) -> dict:
    """What the files of `make_cams` are made from, for the `make_once` of who uses them."""
    row = row_of(method)
    return (from_walk if row.walk else from_network)(profile, row.method, split)


def compute_cams(
    profile: Profile, method: str, images: Tensor, sizes: Tensor | None = None
) -> Tensor:
    """Maps (N, K, S, S) of a few pictures uint8 (N, 3, S, S), before normalisation.

    sizes (N, 2): their own; by default they fill the canvas.
    """
    if sizes is None:
        sizes = torch.tensor([images.shape[-2:]] * len(images))
    row, batch = row_of(method), profile.inference.batch
    parts = list(zip(images.split(batch), sizes.split(batch), strict=True))
    maps_of = picture_maps(profile, row.method)
    maps = [maps_of(*part) for part in parts]
    if row.walk:
        walk = load_walk(profile, row.method)
        maps = [walk(part, m, own) for (part, own), m in zip(parts, maps, strict=True)]
    return enlarge(torch.cat(maps), profile.inference.stride)
