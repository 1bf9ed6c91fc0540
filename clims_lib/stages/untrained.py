"""The CAM networks before any training: their shape, their first weights, their heads."""

from __future__ import annotations

from collections.abc import Callable

import torch

from clims_lib.cam import CAMNet
from clims_lib.config import Profile
from clims_lib.objectives import NORMALISATIONS
from clims_lib.settings import Cam, Clims, Puzzle
from clims_lib.stage import value_of
from clims_lib.stages.first_weights import load_first_weights
from clims_lib.stages.methods import METHODS
from clims_lib.stages.small_clip import untrained_clip
from clims_lib.tower import ClipTower

# What `new_network` reads.
NETWORK = (
    "seed",
    "data.classes",
    "cam.backbone",
    "cam.weights",
    "cam.layers",
    "cam.thin",
    "cam.stride",
    "cam.dilated",
    "compute.frozen_stages",
)
OF_CAM = ("cam.normalisation", "cam.norms", "cam.head_init")  # of the baseline's, besides


def clip_tower(profile: Profile) -> ClipTower:
    """The image tower of the small CLIP, with the first weights that CLIP's own training has."""
    return ClipTower(untrained_clip(profile).visual)


# Backbones that are not the profile's own; who uses one declares its code.
TOWERS: dict[str, Callable[[Profile], torch.nn.Module]] = {"clip": clip_tower}


def code_of_network(method: str) -> list[Callable]:
    """What a method's network runs that `new_network` takes from TOWERS, for `make_once`."""
    tower = METHODS[method].tower
    return [TOWERS[tower]] if tower else []


def new_network(profile: Profile, method: str = "cam", num_classes: int = 0) -> CAMNet:
    """A method's CAM network with fresh weights from the profile's seed.

    num_classes: by default as many as the profile has.
    """
    cam, own, tower = profile.cam, section_of(profile, method), METHODS[method].tower
    mean, std = NORMALISATIONS["clip" if tower else value_of(profile, units_of(method))]
    with torch.random.fork_rng():
        torch.manual_seed(profile.seed)
        net = CAMNet(
            num_classes or len(profile.data.classes),
            cam.layers,
            thin=cam.thin,
            stride=cam.stride,
            backbone=TOWERS[tower](profile) if tower else cam.backbone,
            dilated=cam.dilated,
            head=head_of(profile, method),
            head_init=own.head_init if fresh_head(profile, method) else cam.head_init,
            norms=own.norms,
            mean=mean,
            std=std,
        )
    if not tower:
        load_first_weights(profile, net.backbone)
    net.freeze(profile.compute.frozen_stages)
    return net


def head_of(profile: Profile, method: str) -> str:
    """What turns a method's features into scores: "linear" or "bottleneck"."""
    return profile.clims.head if METHODS[method].section == "clims" else "linear"


def fresh_head(profile: Profile, method: str) -> bool:
    """Whether a method begins with a head of its own, not with that of the one it starts from."""
    start = METHODS[method].start
    return not start or head_of(profile, method) != head_of(profile, start)


def units_of(method: str) -> str:
    """The setting that says in which units a method's network sees pictures: PuzzleCAM, another
    paper's recipe, has its own."""
    return "puzzle.normalisation" if METHODS[method].section == "puzzle" else "cam.normalisation"


def section_of(profile: Profile, method: str) -> Cam | Puzzle | Clims:
    """The section with a method's epochs, batch and rates."""
    return getattr(profile, METHODS[method].section)
