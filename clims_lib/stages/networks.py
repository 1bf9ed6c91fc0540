"""The stage of the CAM networks: data and finetuned CLIP -> trained networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clims_lib import optimisers, training
from clims_lib.artifacts import load_tensors, save_tensors, write_json
from clims_lib.backbones import EfficientNetLite
from clims_lib.batches import MemoryBatches
from clims_lib.cam import CAMNet
from clims_lib.config import ROOT, Profile
from clims_lib.data.download import SOURCES
from clims_lib.data.splits import read_sizes, read_split, split_folder
from clims_lib.devices import ALONE, Team, device_of
from clims_lib.objectives import NORMALISATIONS
from clims_lib.settings import Cam, Clims, Puzzle
from clims_lib.stage import make_once, resuming, value_of
from clims_lib.stages.clip import digest_of_weights, finetune_clip
from clims_lib.stages.criterion import from_clip, new_loss, what_clims_reads
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
    "cam.dilated",
    "compute.frozen_stages",
)
OF_CAM = ("cam.normalisation", "cam.norms", "cam.head_init")  # of the baseline's, besides
TRAINING = (
    "seed",
    "augment.crop",
    "augment.resize",
    "augment.resize_of",
    "compute.accumulate",
    "compute.frozen_norm",
    "compute.full_precision",
)


def crops_of(profile: Profile, crop: int = 0) -> dict[str, Any]:
    """The crops of a training: `crop` pixels, or those of [augment]."""
    how = profile.augment
    return {"crop": crop or how.crop, "resize": how.resize, "resize_of": how.resize_of}


def new_network(profile: Profile, method: str = "cam") -> CAMNet:
    """A method's CAM network with fresh weights from the profile's seed."""
    cam, own = profile.cam, section_of(profile, method)
    units = own if isinstance(own, Puzzle) else cam
    mean, std = NORMALISATIONS[units.normalisation]
    with torch.random.fork_rng():
        torch.manual_seed(profile.seed)
        net = CAMNet(
            len(profile.data.classes),
            cam.layers,
            thin=cam.thin,
            stride=cam.stride,
            backbone=cam.backbone,
            dilated=cam.dilated,
            head=head_of(profile, method),
            head_init=own.head_init if fresh_head(profile, method) else cam.head_init,
            norms=own.norms,
            mean=mean,
            std=std,
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


def head_of(profile: Profile, method: str) -> str:
    """What turns a method's features into scores: "linear" or "bottleneck"."""
    return profile.clims.head if METHODS[method].section == "clims" else "linear"


def fresh_head(profile: Profile, method: str) -> bool:
    """Whether a method begins with a head of its own, not with that of the one it starts from."""
    start = METHODS[method].start
    return not start or head_of(profile, method) != head_of(profile, start)


def load_network(profile: Profile, method: str) -> CAMNet:
    """A trained network in eval mode, trained now when it is not there yet."""
    model = new_network(profile, method)
    model.load_state_dict(load_tensors(train_cam(profile, method) / "weights.safetensors"))
    return model.to(device_of(profile)).to(memory_format=torch.channels_last).eval()


def first_network(profile: Profile, method: str) -> CAMNet:
    """The network that a method's training begins with: fresh, or as another method left it."""
    model, start = new_network(profile, method), METHODS[method].start
    if start:
        trained = load_network(profile, start)
        part = "backbone" if fresh_head(profile, method) else ""
        model.get_submodule(part).load_state_dict(trained.get_submodule(part).state_dict())
    return model.to(device_of(profile)).to(memory_format=torch.channels_last)


def first_weights(profile: Profile) -> str:
    """A hash of the file that a fresh network's backbone starts from; "" where it needs none."""
    named = {"": None, "imagenet": profile.weights / SOURCES["resnet50"].filename}
    path = named.get(profile.cam.weights, ROOT / profile.cam.weights)
    return digest_of_weights(profile, path) if path is not None and path.is_file() else ""


def section_of(profile: Profile, method: str) -> Cam | Puzzle | Clims:
    """The section with a method's epochs, batch and rates."""
    return getattr(profile, METHODS[method].section)


def epochs_of(method: str) -> str:
    """The setting that says how many epochs a method is trained for."""
    entry = METHODS[method]
    return entry.epochs or f"{entry.section}.epochs"


def optimiser_of(method: str) -> str:
    """The setting that says by which optimiser a method is trained: PuzzleCAM has its own."""
    return "puzzle.optimiser" if METHODS[method].section == "puzzle" else "compute.optimiser"


def learning_of(
    profile: Profile, method: str, model: CAMNet, pictures: int, per_epoch: int
) -> dict[str, Any]:
    """How a method's network learns: what `training.train` is handed besides loss and batches.

    pictures, per_epoch: how many pictures there are, and how many steps an epoch has.
    """
    section, epochs = section_of(profile, method), value_of(profile, epochs_of(method))
    optimiser, schedule = optimisers.cam_optimiser(
        value_of(profile, optimiser_of(method)),
        model,
        section.lr,
        section.head_lr_factor,
        section.weight_decay,
        steps=epochs * per_epoch,
        steps_per_epoch=per_epoch,
        decay=optimisers.whole_batches(pictures, section.batch, epochs),
    )
    return {
        "steps": epochs * per_epoch,
        "optimiser": optimiser,
        "schedule": schedule,
        "steps_per_epoch": per_epoch,
        "clip_norm": getattr(section, "clip_norm", 0.0),
        "accumulate": profile.compute.accumulate,
        "frozen_norm": model.backbone if profile.compute.frozen_norm else None,
        "amp": not profile.compute.full_precision,
    }


def train_cam(profile: Profile, method: str, team: Team = ALONE) -> Path:
    """Train the CAM network by one of METHODS; returns the folder of weights and history.json.

    A team of processes shares every batch; its first one keeps the folder. Raises ValueError for
    an unknown method.
    """
    entry = METHODS[row_of(method).method]
    section, masks = getattr(profile, entry.section), "masks" in entry.needs
    of_section = ("batch", "lr", "head_lr_factor", "weight_decay", "norms", "crop")
    read = [epochs_of(method), *(f"{entry.section}.{name}" for name in of_section)]
    units = "puzzle" if entry.section == "puzzle" else "cam"  # another paper's recipe
    read += [optimiser_of(method), f"{units}.normalisation"]
    read += ["augment.drop_last", *entry.arguments.values()]
    if fresh_head(profile, method):
        read += [f"{entry.section}.head_init"]
    if entry.section == "clims":
        read += ["clims.head"]
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
        read += what_clims_reads(profile, method)
        code += [from_clip]
    if hasattr(section, "clip_norm"):
        read += [f"{entry.section}.clip_norm"]

    def make(folder: Path) -> None:
        device, model = device_of(profile), first_network(profile, method)
        batches = MemoryBatches(
            *read_split(profile, "train", masks),
            section.batch,
            profile.seed,
            read_sizes(profile, "train"),
            **crops_of(profile, section.crop),
            drop_last=profile.augment.drop_last,
            device=device,
        )
        per_epoch = batches.steps_per_epoch
        learning = learning_of(profile, method, model, batches.pictures, per_epoch)
        advice = (
            f"raise compute.accumulate (now {profile.compute.accumulate}), or lower "
            f"{entry.section}.batch (now {section.batch}) or augment.crop"
        )
        with resuming(folder, method, learning["steps"], device, advice, team) as how:
            history = training.train(
                model,
                new_loss(profile, method),
                batches,
                **learning | how,
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
