"""The stage of the CAM networks: data and finetuned CLIP -> trained networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clims_lib import clip_model, training
from clims_lib.artifacts import load_tensors, save_tensors, write_json
from clims_lib.backbones import EfficientNetLite
from clims_lib.batches import MemoryBatches
from clims_lib.cam import CAMNet
from clims_lib.config import ROOT, Profile
from clims_lib.data.download import SOURCES
from clims_lib.data.pictures import digest_of
from clims_lib.data.splits import read_sizes, read_split, split_folder
from clims_lib.devices import ALONE, Team, device_of
from clims_lib.losses import TERMS, check_weights
from clims_lib.objectives import Loss
from clims_lib.stage import make_once, resuming, value_of
from clims_lib.stages.clip import clip_texts, finetune_clip
from clims_lib.stages.methods import METHODS, row_of

# What `new_network` reads, and what every training of a network on pictures does.
NETWORK = (
    "seed",
    "data.classes",
    "cam.backbone",
    "cam.weights",
    "cam.layers",
    "cam.thin",
    "cam.stride",
    "compute.frozen_stages",
)
TRAINING = (
    "seed",
    "augment",
    "compute.accumulate",
    "compute.frozen_norm",
    "compute.full_precision",
    "compute.optimiser",
)


def loss_weights(profile: Profile, method: str = "clims") -> dict[str, float]:
    """{term: weight} of CLIMS or of one of its ablations, in the order of the losses.

    Raises ValueError where the profile gives a weight to a term that does not exist.
    """
    given, without = profile.losses.weights, METHODS[method].without
    check_weights(given)
    return {name: 0.0 if name == without else given[name] for name in TERMS if name in given}


def new_loss(profile: Profile, method: str) -> Loss:
    """What a method minimises, made from its entry in the registry."""
    entry = METHODS[method]
    given = {name: value_of(profile, setting) for name, setting in entry.arguments.items()}
    return entry.loss(**given | (from_clip(profile, method) if "clip" in entry.needs else {}))


def from_clip(profile: Profile, method: str) -> dict[str, Any]:
    """What a loss that asks CLIP is given besides: CLIP, its texts, the weights of the terms."""
    model = clip_model.load_clip(finetune_clip(profile) / "clip.pt", device_of(profile))
    class_text, background_text = clip_texts(profile, model)
    return {
        "encode": clip_model.image_encoder(model),
        "class_text": class_text,
        "background_text": background_text,
        "size": model.visual.input_resolution,
        "weights": loss_weights(profile, method),
    }


def new_network(profile: Profile) -> CAMNet:
    """The profile's CAM network with fresh weights from its seed."""
    cam = profile.cam
    with torch.random.fork_rng():
        torch.manual_seed(profile.seed)
        net = CAMNet(
            len(profile.data.classes),
            cam.layers,
            thin=cam.thin,
            stride=cam.stride,
            backbone=cam.backbone,
        )
    if cam.weights == "imagenet":
        load_imagenet(net.backbone, profile.weights)
    elif cam.weights:
        net.backbone.load_state_dict(load_tensors(ROOT / cam.weights))
    net.freeze(profile.compute.frozen_stages)
    return net


def load_imagenet(backbone: torch.nn.Module, weights: Path, name: str = "resnet50") -> None:
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


def load_network(profile: Profile, method: str) -> CAMNet:
    """A trained network in eval mode, trained now when it is not there yet."""
    model = new_network(profile)
    model.load_state_dict(load_tensors(train_cam(profile, method) / "weights.safetensors"))
    return model.to(device_of(profile)).to(memory_format=torch.channels_last).eval()


def first_weights(profile: Profile) -> str:
    """A hash of the file that a fresh network's backbone starts from; "" where it needs none."""
    named = {"": None, "imagenet": profile.weights / SOURCES["resnet50"].filename}
    path = named.get(profile.cam.weights, ROOT / profile.cam.weights)
    known = profile.outputs / "digests" / "weights.json"
    return digest_of([path], known) if path is not None and path.is_file() else ""


def train_cam(profile: Profile, method: str, team: Team = ALONE) -> Path:
    """Train the CAM network by one of METHODS; returns the folder of weights and history.json.

    A team of processes shares every batch; its first one keeps the folder. Raises ValueError for
    an unknown method.
    """
    entry = METHODS[row_of(method).method]
    section, masks = getattr(profile, entry.section), "masks" in entry.needs
    epochs = entry.epochs or f"{entry.section}.epochs"
    read = [epochs, *(f"{entry.section}.{name}" for name in ("batch", "lr", "head_lr_factor"))]
    read += [f"{entry.section}.weight_decay", *entry.arguments.values()]
    inputs: dict[str, str | Path] = {
        "images": split_folder(profile, "train"),
        "labels": split_folder(profile, "train", "labels"),
        "watched images": split_folder(profile, "val"),
    }
    if masks:
        inputs["masks"] = split_folder(profile, "train", "masks")
    if entry.start:
        inputs["start"] = train_cam(profile, entry.start, team)
    else:
        inputs["first weights"] = first_weights(profile)
    code: list[Callable] = [entry.loss]
    if "clip" in entry.needs:
        inputs["clip"] = finetune_clip(profile)
        read += ["losses.background"]
        read += [f"losses.weights.{t}" for t in profile.losses.weights if t != entry.without]
        code += [from_clip]
    if hasattr(section, "clip_norm"):
        read += [f"{entry.section}.clip_norm"]

    def make(folder: Path) -> None:
        device = device_of(profile)
        model = load_network(profile, entry.start) if entry.start else new_network(profile)
        model = model.to(device).to(memory_format=torch.channels_last)
        batches = MemoryBatches(
            *read_split(profile, "train", masks),
            section.batch,
            profile.seed,
            read_sizes(profile, "train"),
            profile.augment.crop,
            profile.augment.resize,
        )
        per_epoch = batches.steps_per_epoch
        steps, kind = value_of(profile, epochs) * per_epoch, profile.compute.optimiser
        groups = training.head_and_body(model, section.lr, section.head_lr_factor)
        optimiser = training.new_optimiser(kind, groups, section.lr, section.weight_decay)
        advice = (
            f"raise compute.accumulate (now {profile.compute.accumulate}), or lower "
            f"{entry.section}.batch (now {section.batch}) or augment.crop"
        )
        with resuming(folder, method, steps, device, advice, team) as how:
            history = training.train(
                model,
                new_loss(profile, method),
                batches,
                optimiser=optimiser,
                schedule=training.new_schedule(kind, optimiser, steps, per_epoch),
                steps_per_epoch=per_epoch,
                clip_norm=getattr(section, "clip_norm", 0.0),
                accumulate=profile.compute.accumulate,
                frozen_norm=model.backbone if profile.compute.frozen_norm else None,
                amp=not profile.compute.full_precision,
                **how,
                watch=_keep_maps(profile, folder),
            )
        if team.rank == 0:
            write_json(folder / "history.json", training.epoch_means(history, per_epoch))
            save_tensors(folder / "weights.safetensors", model.state_dict())

    return make_once(
        profile,
        "weights",
        method,
        make,
        settings=[*NETWORK, *TRAINING, *read, "data.studied"],
        inputs=inputs,
        code=code,
        team=team,
    )


def _keep_maps(profile: Profile, folder: Path) -> Callable[[int, torch.nn.Module], None]:
    """A `watch` for training: the score maps of a few val pictures after every epoch, on disk."""
    images = read_split(profile, "val")[0][: profile.data.studied].float() / 255

    @torch.no_grad()
    def watch(epoch: int, model: torch.nn.Module) -> None:
        x = images.to(device_of(profile)).contiguous(memory_format=torch.channels_last)
        scores = model.eval()(x).float().half()
        save_tensors(folder / f"maps_{epoch:02d}.safetensors", {"scores": scores})

    return watch
