"""The maps of every method, the entry to all of them: a network's own, or after a random walk."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from clims_lib.config import Profile
from clims_lib.stages.maps import enlarge, from_network, network_cams, network_maps, one_by_one
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

    sizes (N, 2): their own, of which inference.seen = "picture" makes use.
    """
    row, parts = row_of(method), images.split(profile.inference.batch)
    maps_of, stride = network_maps(profile, row.method), profile.inference.stride
    if profile.inference.seen == "picture" and sizes is not None:
        maps = [*one_by_one(maps_of, images, sizes, stride).split(len(parts[0]))]
    else:
        maps = [maps_of(part) for part in parts]
    if row.walk:
        walk, own = load_walk(profile, row.method), [None] * len(parts)
        if sizes is not None:
            own = [*sizes.split(len(parts[0]))]
        maps = [walk(*each) for each in zip(parts, maps, own, strict=True)]
    return enlarge(torch.cat(maps), stride)
