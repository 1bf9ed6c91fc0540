"""The stages of the CAM networks: data and finetuned CLIP -> trained networks.

Each stage takes the profile, returns a finished artifact's folder, and computes it only when its
settings, its seed or its inputs' changed. The only code that knows settings, disk and pieces.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from clims_lib import clip_model, objectives, training
from clims_lib.artifacts import (
    artifact,
    folder_of,
    key_in,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
    write_json,
)
from clims_lib.batches import MemoryBatches
from clims_lib.cam import CAMNet
from clims_lib.config import ROOT, Profile, did_you_mean
from clims_lib.data.download import SOURCES
from clims_lib.data.splits import read_sizes, read_split, split_folder
from clims_lib.devices import ALONE, Team, bar, device_of, explains_out_of_memory
from clims_lib.settings import Compute
from clims_lib.stages.clip import clip_texts, finetune_clip

# CLIMS without one of its terms: the ablation of notebook 03.
ABLATIONS = {f"clims_no_{term}": term for term in TERMS}
CLASSIC = ("cam", "cam_longer", "puzzle_cam", "full_masks")  # from random weights
METHODS = (*CLASSIC, "cam_area", "clims", *ABLATIONS)


def loss_weights(profile: Profile, method: str = "clims") -> dict[str, float]:
    """{term: weight} of CLIMS or of one of its ablations, in the order of the losses.

    Raises ValueError where the profile gives a weight to a term that does not exist.
    """
    given, without = profile.losses.weights, ABLATIONS.get(method)
    check_weights(given)
    return {name: 0.0 if name == without else given[name] for name in TERMS if name in given}


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


def load_imagenet(backbone: torch.nn.Module, weights: Path) -> None:
    """Give a backbone its ImageNet weights: torchvision's file for a ResNet-50, else its own.

    Raises FileNotFoundError saying where the file belongs.
    """
    if hasattr(backbone, "load_imagenet"):
        backbone.load_imagenet()
        return
    source = SOURCES["resnet50"]
    path = weights / source.filename
    if not path.is_file():
        raise FileNotFoundError(
            f"ImageNet's ResNet-50 is not here: {path}. Fetch it with clims download weights "
            f"--data-root {weights.parent}, or put {source.url} there"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})


def load_network(profile: Profile, method: str) -> CAMNet:
    """A trained network in eval mode, trained now when it is not there yet."""
    model = new_network(profile)
    model.load_state_dict(load_tensors(train_cam(profile, method) / "weights.safetensors"))
    return model.to(device_of(profile), memory_format=torch.channels_last).eval()


def unusual(profile: Profile) -> dict:
    """The settings of `compute` that are not as usual, for a recipe; the others change nothing."""
    usual = Compute(
        accumulate=1, frozen_norm=False, full_precision=False, frozen_stages=0, optimiser="adamw"
    )
    return {k: v for k, v in asdict(profile.compute).items() if v != getattr(usual, k)}


def train_cam(profile: Profile, method: str, team: Team = ALONE) -> Path:
    """Train the CAM network by one of METHODS; returns the folder of weights and history.json.

    A team of processes shares every batch; its first one keeps the folder.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}{did_you_mean(method, METHODS)}")
    settings, inputs = _cam_settings(profile, method), {}
    if method not in CLASSIC:
        inputs["start"] = key_in(train_cam(profile, "cam", team))
    if method == "clims" or method in ABLATIONS:
        inputs["clip"] = key_in(finetune_clip(profile))
        inputs["losses"] = asdict(profile.losses) | {"weights": loss_weights(profile, method)}

    def make(folder: Path) -> None:
        device, state = device_of(profile), team.broadcast(load_checkpoint(folder))
        model = new_network(profile) if "start" not in inputs else load_network(profile, "cam")
        model = model.to(device, memory_format=torch.channels_last)
        data = read_split(profile, "train", masks=method == "full_masks")
        todo = MemoryBatches(
            *data,
            settings["batch"],
            profile.seed,
            read_sizes(profile, "train"),
            profile.augment.crop,
            profile.augment.resize,
        )
        per_epoch = todo.steps_per_epoch
        steps, kind = settings["epochs"] * per_epoch, profile.compute.optimiser
        groups = training.head_and_body(model, settings["lr"], settings["head_lr_factor"])
        optimiser = training.new_optimiser(kind, groups, settings["lr"], settings["weight_decay"])
        advice = (
            f"raise compute.accumulate (now {profile.compute.accumulate}), or lower "
            f"{_section(method)}.batch (now {settings['batch']}) or augment.crop"
        )
        with (
            bar(steps, method, (state or {}).get("step", 0)) as progress,
            explains_out_of_memory(device, advice),
        ):
            history = training.train(
                model,
                _cam_loss(profile, method),
                todo,
                steps=steps,
                optimiser=optimiser,
                schedule=training.new_schedule(kind, optimiser, steps, per_epoch),
                steps_per_epoch=per_epoch,
                clip_norm=settings.get("clip_norm", 0.0),
                state=state,
                team=team,
                accumulate=profile.compute.accumulate,
                frozen_norm=model.backbone if profile.compute.frozen_norm else None,
                amp=not profile.compute.full_precision,
                save=lambda state: save_checkpoint(folder, **state),
                progress=progress,
                watch=_keep_maps(profile, folder),
            )
        if team.rank == 0:
            write_json(folder / "history.json", training.epoch_means(history, per_epoch))
            save_tensors(folder / "weights.safetensors", model.state_dict())

    recipe = {
        "method": method,
        "settings": settings,
        "cam": profile.cam,
        "seed": profile.seed,
        "augment": profile.augment,
        "train": key_in(split_folder(profile, "train")),
        **inputs,
        **unusual(profile),
    }
    root = profile.outputs / "weights"
    folder = folder_of(root, method, recipe)
    if team.broadcast(not folder.is_dir()) and team.rank > 0:
        make(folder)  # its share of the work; what it reads and writes is the first one's
    elif team.rank == 0:
        artifact(root, method, recipe, make)
    team.broadcast(None)  # wait until the folder has its name
    return folder


def _keep_maps(profile: Profile, folder: Path):
    """A `watch` for training: the score maps of a few val pictures after every epoch, on disk."""
    images = read_split(profile, "val")[0][: profile.data.studied].float() / 255

    @torch.no_grad()
    def watch(epoch: int, model: CAMNet) -> None:
        x = images.to(device_of(profile)).contiguous(memory_format=torch.channels_last)
        scores = model.eval()(x).float().half()
        save_tensors(folder / f"maps_{epoch:02d}.safetensors", {"scores": scores})

    return watch


def _section(method: str) -> str:
    """The section of the profile that has the method's schedule."""
    if method == "puzzle_cam":
        return "puzzle"
    return "clims" if method in ("clims", "cam_area", *ABLATIONS) else "cam"


def _cam_settings(profile: Profile, method: str) -> dict:
    section = _section(method)
    if section != "cam":
        area = {"area_weight": profile.cam.area_weight} if method == "cam_area" else {}
        return asdict(getattr(profile, section)) | area
    epochs = profile.cam.longer_epochs if method == "cam_longer" else profile.cam.epochs
    return {
        "epochs": epochs,
        "batch": profile.cam.batch,
        "lr": profile.cam.lr,
        "head_lr_factor": profile.cam.head_lr_factor,
        "weight_decay": profile.cam.weight_decay,
    }


def _cam_loss(profile: Profile, method: str) -> objectives.Loss:
    if method == "puzzle_cam":
        puzzle = profile.puzzle
        return objectives.puzzle_loss(
            tiles=puzzle.tiles, alpha=puzzle.alpha, ramp=puzzle.alpha_ramp
        )
    if method == "full_masks":
        return objectives.full_mask_loss(len(profile.data.classes))
    if method in ("cam", "cam_longer", "cam_area"):
        return objectives.cam_loss(profile.cam.area_weight if method == "cam_area" else 0.0)
    model = clip_model.load_clip(finetune_clip(profile) / "clip.pt", device_of(profile))
    form = profile.losses
    return objectives.clims_training_loss(
        clip_model.image_encoder(model),
        *clip_texts(profile, model),
        size=model.visual.input_resolution,
        weights=loss_weights(profile, method),
        cbs_threshold=form.cbs_threshold if form.cbs_form == "thresholded" else None,
    )
