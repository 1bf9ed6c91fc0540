"""The stage of the CAM networks: data and finetuned CLIP -> trained networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clims_lib import optimisers, training
from clims_lib.artifacts import load_tensors, save_tensors, write_json
from clims_lib.batches import MemoryBatches
from clims_lib.cam import CAMNet
from clims_lib.config import Profile
from clims_lib.data.splits import read_sizes, read_split, split_folder
from clims_lib.devices import ALONE, Team, device_of
from clims_lib.stage import make_once, resuming, value_of
from clims_lib.stages.clip import finetune_clip
from clims_lib.stages.corpus import train_on_corpus
from clims_lib.stages.criterion import check_losses, from_clip, new_loss, what_clims_reads
from clims_lib.stages.first_weights import first_weights
from clims_lib.stages.methods import METHODS, row_of
from clims_lib.stages.untrained import NETWORK, fresh_head, new_network, section_of, units_of

# What every training of a network on pictures reads.
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
    if "captions" in entry.needs:
        return train_on_corpus(profile, method)
    if "clip" in entry.needs:
        check_losses(profile)  # now, not when what it starts from is trained
    section, masks = getattr(profile, entry.section), "masks" in entry.needs
    of_section = ("batch", "lr", "head_lr_factor", "weight_decay", "norms", "crop")
    read = [epochs_of(method), *(f"{entry.section}.{name}" for name in of_section)]
    read += [optimiser_of(method), units_of(method)]
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
            team=team,
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
