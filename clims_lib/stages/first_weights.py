"""What networks begin with: random weights, ImageNet's, or those of a file.

The CAM network's are named by cam.weights; CCT and DeepLab have a `start` in their sections.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from clims_lib.artifacts import load_tensors
from clims_lib.backbones import EfficientNetLite
from clims_lib.config import ROOT, Profile, did_you_mean
from clims_lib.data.download import SOURCES
from clims_lib.stages.clip import digest_of_weights

# In download.SOURCES, by layers.
IMAGENET: dict[tuple[int, ...], str] = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101"}
INSTEAD = {  # {section: (the setting that names its weights, what else there is to choose)}
    "cam": ("cam.weights", '"" for random ones, or a file'),
    "cct": ("cct.start", '"cam" or "random"'),
    "deeplab": ("deeplab.start", '"cam" or "random"'),
}


def layers_of(profile: Profile, section: str) -> tuple[int, ...]:
    """The blocks a stage of a section's ResNet: DeepLab may be deeper than the CAM network."""
    return (profile.deeplab.layers if section == "deeplab" else ()) or profile.cam.layers


def imagenet_of(profile: Profile, section: str) -> str:
    """The name in download.SOURCES of ImageNet's weights that fit a section's network, "cam", "cct"
    or "deeplab"; "" for EfficientNet's, which come in a package.

    Raises ValueError where there are none.
    """
    if profile.cam.backbone != "resnet":
        return ""
    layers, thin = layers_of(profile, section), profile.cam.thin
    if layers not in IMAGENET or thin != 1:
        setting, instead = INSTEAD[section]
        raise ValueError(
            f'{setting} = "imagenet": there are weights for cam.thin = 1 and layers of '
            f"{' or '.join(str(list(known)) for known in IMAGENET)}, not for cam.thin = {thin} and "
            f"{list(layers)}; choose {instead}"
        )
    return IMAGENET[layers]


def load_imagenet(backbone: nn.Module, weights: Path, name: str = "resnet50") -> None:
    """Give a backbone its ImageNet weights: torchvision's file of a ResNet, else its own.

    name: of download.SOURCES. Raises FileNotFoundError saying where the file belongs.
    """
    if isinstance(backbone, EfficientNetLite):
        backbone.load_imagenet()
        return
    source = SOURCES[name]
    path = weights / source.filename
    if not path.is_file():
        raise FileNotFoundError(
            f"ImageNet's {name} is not here: {path}. Fetch it with clims download weights "
            f"--data-root {weights.parent}, or put {source.url} there"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})


def load_first_weights(profile: Profile, backbone: nn.Module) -> None:
    """Give a CAM network's backbone what cam.weights names; "" leaves it as it is.

    Raises ValueError where this does not fit, and FileNotFoundError where it is not here.
    """
    if profile.cam.weights == "imagenet":
        load_imagenet(backbone, profile.weights, imagenet_of(profile, "cam"))
    elif profile.cam.weights:
        backbone.load_state_dict(fitting(profile, backbone))


def first_weights(profile: Profile) -> str:
    """A hash of the file that a fresh CAM network's backbone starts from; "" where it needs none,
    and where there is none, which `load_first_weights` refuses."""
    named: str | Path = profile.cam.weights
    if named == "imagenet":
        known = IMAGENET.get(profile.cam.layers) if profile.cam.backbone == "resnet" else None
        named = profile.weights / SOURCES[known].filename if known else ""
    path = ROOT / named
    return digest_of_weights(profile, path) if path.is_file() else ""


def fitting(profile: Profile, backbone: nn.Module) -> dict[str, Tensor]:
    """The tensors of the file that cam.weights names, if they are this backbone's, name for name.

    Raises FileNotFoundError where there is no such file, with the nearest that there is, and
    ValueError where its tensors are others, with the layers that they would fit.
    """
    named = profile.cam.weights
    path = ROOT / named
    if not path.is_file():
        beside = [str(Path(named).with_name(p.name)) for p in path.parent.glob("*.safetensors")]
        near = did_you_mean(named, ["imagenet", *beside])
        raise FileNotFoundError(f"cam.weights = {named!r}: there is no file {path}{near}")
    tensors = load_tensors(path)
    if problem := misfit(tensors, backbone.state_dict()):
        raise ValueError(f"cam.weights = {named!r} does not fit: {problem}")
    return tensors


def misfit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Why some tensors are not those of a backbone, and what to do; "" where they are."""
    shapes, needed = ({n: tuple(t.shape) for n, t in some.items()} for some in (given, wanted))
    if shapes == needed:
        return ""
    if any(name.startswith("backbone.") for name in given):
        return (
            "it is a whole network, its head included; keep what begins with backbone., without "
            "this word"
        )
    if "layer4.0.conv1.weight" in shapes and "layer4.0.conv1.weight" in needed:
        resnets = [_resnet(some) for some in (shapes, needed)]
        if resnets[0] != resnets[1]:
            (layers, thin), mine = resnets
            return (
                f"it is a ResNet of cam.layers = {layers} and cam.thin = {thin}, not of "
                f"{mine[0]} and {mine[1]}; -p 'cam.layers={layers}' -p cam.thin={thin} take it"
            )
    name = min(n for n in shapes.keys() | needed.keys() if shapes.get(n) != needed.get(n))
    if name not in needed:
        return f"{name} is no part of the backbone: leave it out"
    return f"the backbone's {name} is {needed[name]}, and in the file {shapes.get(name, 'absent')}"


def _resnet(shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[int], int]:
    """(blocks a stage, how many times thinner than usual) of a ResNet's named shapes."""
    found = [re.match(r"layer(\d)\.(\d+)\.", name) for name in shapes]
    blocks = [(int(m[1]), int(m[2])) for m in found if m]
    layers = [1 + max(block for stage, block in blocks if stage == s) for s in (1, 2, 3, 4)]
    return layers, 512 // shapes["layer4.0.conv1.weight"][0]
