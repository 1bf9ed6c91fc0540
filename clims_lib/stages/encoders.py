"""What CCT and DeepLab start from: a backbone of their own depth and stride, with first weights.

Each has its own section of the profile; of the CAM network it takes the kind of backbone and its
width. Where convolutions no longer step they look further instead, as in both releases.
"""

from __future__ import annotations

from pathlib import Path

import torch

from clims_lib.cam import CAMNet
from clims_lib.config import Profile
from clims_lib.data.download import SOURCES
from clims_lib.stages.clip import digest_of_weights
from clims_lib.stages.first_weights import imagenet_of, layers_of, load_imagenet
from clims_lib.stages.networks import load_network, train_cam


def encoder_settings(profile: Profile, section: str) -> list[str]:
    """The settings that `new_encoder` and `load_start` read for a section, "cct" or "deeplab"."""
    shared = ["seed", "data.classes", "cam.backbone", "cam.thin"]
    layers = ["deeplab.layers"] if section == "deeplab" else []
    if not layers or not profile.deeplab.layers:
        layers += ["cam.layers"]
    return [*shared, *layers, *(f"{section}.{n}" for n in ("start", "stride", "frozen_stages"))]


def new_encoder(profile: Profile, section: str) -> CAMNet:
    """A CAM network whose backbone a section's network is made of, with fresh weights."""
    own, cam = getattr(profile, section), profile.cam
    with torch.random.fork_rng():
        torch.manual_seed(profile.seed)
        net = CAMNet(
            len(profile.data.classes),
            layers_of(profile, section),
            thin=cam.thin,
            stride=own.stride,
            backbone=cam.backbone,
        )
    net.freeze(own.frozen_stages)
    return net


def load_start(profile: Profile, section: str, backbone: torch.nn.Module) -> None:
    """Give a backbone of `new_encoder` the weights that the section's `start` names.

    "cam": the baseline CAM network's, trained on image-level labels; "imagenet"; "random": none.
    """
    start = getattr(profile, section).start
    if start == "cam":
        backbone.load_state_dict(load_network(profile, "cam").backbone.state_dict())
    if start == "imagenet":
        load_imagenet(backbone, profile.weights, imagenet_of(profile, section))


def check_start(profile: Profile, section: str) -> None:
    """Raise ValueError where a section's network cannot have the weights of its `start`."""
    start = getattr(profile, section).start
    if start == "cam" and layers_of(profile, section) != profile.cam.layers:
        raise ValueError(
            f'{section}.start = "cam" needs the layers of the CAM network: '
            f"{section}.layers must be [] or {list(profile.cam.layers)}"
        )
    if start == "imagenet":
        imagenet_of(profile, section)


def start_inputs(profile: Profile, section: str) -> dict[str, str | Path]:
    """What a stage has as inputs for `load_start`, checked before anything is trained.

    Raises ValueError as `check_start` does.
    """
    check_start(profile, section)
    start = getattr(profile, section).start
    if start == "cam":
        return {"start": train_cam(profile, "cam")}
    name = imagenet_of(profile, section) if start == "imagenet" else ""
    if not name:
        return {}
    path = profile.weights / SOURCES[name].filename
    return {"start": digest_of_weights(profile, path) if path.is_file() else ""}
