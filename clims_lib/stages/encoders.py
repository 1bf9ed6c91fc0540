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
from clims_lib.stages.networks import load_network, train_cam
from clims_lib.stages.untrained import load_imagenet

IMAGENET = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101"}  # in download.SOURCES, by layers


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
            _layers(profile, section),
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


def start_inputs(profile: Profile, section: str) -> dict[str, str | Path]:
    """What a stage has as inputs for `load_start`, checked before anything is trained.

    Raises ValueError where the network can have no such weights.
    """
    start = getattr(profile, section).start
    if start == "cam":
        if _layers(profile, section) != profile.cam.layers:
            raise ValueError(
                f'{section}.start = "cam" needs the layers of the CAM network: '
                f"{section}.layers must be [] or {list(profile.cam.layers)}"
            )
        return {"start": train_cam(profile, "cam")}
    name = imagenet_of(profile, section) if start == "imagenet" else ""
    if not name:
        return {}
    path = profile.weights / SOURCES[name].filename
    return {"start": digest_of_weights(profile, path) if path.is_file() else ""}


def _layers(profile: Profile, section: str) -> tuple[int, ...]:
    """DeepLab may be deeper than the CAM network."""
    return (profile.deeplab.layers if section == "deeplab" else ()) or profile.cam.layers


def imagenet_of(profile: Profile, section: str) -> str:
    """The name in download.SOURCES of the weights that fit; EfficientNet's come in a package, "".

    Raises ValueError where there are none.
    """
    if profile.cam.backbone != "resnet":
        return ""
    layers, thin = _layers(profile, section), profile.cam.thin
    if layers not in IMAGENET or thin != 1:
        raise ValueError(
            f'{section}.start = "imagenet": there are weights for cam.thin = 1 and layers of '
            f"{' or '.join(str(list(known)) for known in IMAGENET)}, not for cam.thin = {thin} and "
            f'{list(layers)}; choose "cam" or "random"'
        )
    return IMAGENET[layers]
