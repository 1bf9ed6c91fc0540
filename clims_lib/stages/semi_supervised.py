"""The stage of the semi-supervised networks: CCT, with or without pseudo masks (notebook 06).

The same CAM-sized network learns from few pixel-labelled pictures and many with image-level labels
only. At test time no labels are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor

from clims_lib import cct
from clims_lib.artifacts import key_of, load_tensors, save_tensors, write_json
from clims_lib.backbones import MEAN, STD
from clims_lib.batches import DrawnBatches
from clims_lib.cct_network import CCT
from clims_lib.clip_model import autocast
from clims_lib.config import Profile
from clims_lib.data.splits import open_split, read_sizes, read_split, split_folder
from clims_lib.devices import device_of, explains_out_of_memory
from clims_lib.stage import make_once, resuming
from clims_lib.stages.masks import make_pseudo_masks, read_folder
from clims_lib.stages.methods import pseudo_row, trainer_of
from clims_lib.stages.networks import (
    NETWORK,
    TRAINING,
    crops_of,
    load_network,
    new_network,
    train_cam,
)
from clims_lib.training import StepBatch, new_optimiser, new_schedule, train

SUPERVISED = ("steps", "feature_channels", "output_stride", "batch_labelled", "lr", "weight_decay")


def new_cct(profile: Profile) -> CCT:
    """CCT on the profile's CAM backbone, with fresh weights from its seed."""
    network, settings = new_network(profile), profile.cct
    with torch.random.fork_rng():
        torch.manual_seed(profile.seed)
        return CCT(
            network.backbone,
            network.channels,
            len(profile.data.classes) + 1,
            settings.feature_channels,
            settings.perturbations,
            max(1, profile.cam.stride // settings.output_stride),
        )


def normalise(images: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] -> the backbone's units."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std


def train_cct(profile: Profile, method: str) -> Path:
    """Train one of `methods.trainers`; returns the folder of weights and history.json."""
    trainer, settings = trainer_of(profile, method), profile.cct
    inputs: dict[str, str | Path] = {"start": train_cam(profile, "cam")}
    for kind in ("images", "masks"):
        inputs[f"labelled {kind}"] = split_folder(profile, "train_labelled", kind)
    read = [f"cct.{name}" for name in SUPERVISED] + [
        "cct.perturbations",
        "compute.optimiser",
        "cam.normalisation",
    ]
    if trainer.consistency or trainer.pseudo:
        inputs["weak images"] = split_folder(profile, "train_weak")
        read += ["cct.batch_weak", "cct.ramp"]
    if trainer.consistency:
        read += ["cct.unsupervised_weight"]
    source = None
    if trainer.pseudo:  # of all train pictures, as DeepLab's; the weak ones are read
        source = inputs["pseudo masks"] = make_pseudo_masks(profile, pseudo_row(profile), "train")
        inputs["weak names"] = key_of(open_split(profile, "train_weak").names)
        read += ["cct.weak_weight_auxiliary", "cct.weak_weight_main"]

    def make(folder: Path) -> None:
        model = new_cct(profile)
        # The published encoder starts from ImageNet; ours from the baseline CAM network.
        model.backbone.load_state_dict(load_network(profile, "cam").backbone.state_dict())
        device = device_of(profile)
        model = model.to(device).to(memory_format=torch.channels_last)
        images, _, masks = read_split(profile, "train_labelled", masks=True)
        form = {"steps": settings.steps} | crops_of(profile)
        labelled = DrawnBatches(
            images,
            masks,
            settings.batch_labelled,
            seed=profile.seed,
            sizes=read_sizes(profile, "train_labelled"),
            device=device,
            **form,
        )
        weak = None
        if trainer.consistency or trainer.pseudo:
            weak = DrawnBatches(
                read_split(profile, "train_weak")[0],
                read_folder(profile, source, "train_weak") if source else None,
                settings.batch_weak,
                seed=profile.seed + 1,
                sizes=read_sizes(profile, "train_weak"),
                device=device,
                **form,
            )

        def batches(start: int) -> Iterator[StepBatch]:
            unlabelled = weak(start) if weak else repeat((None, None))
            for (x, m), (y, n) in zip(labelled(start), unlabelled, strict=False):
                yield normalise(x), m, None if y is None else normalise(y), n

        kind, generator = profile.compute.optimiser, torch.Generator(device)
        generator.manual_seed(profile.seed)
        optimiser = new_optimiser(
            kind, model.parameters(), settings.lr, settings.weight_decay, fused=False
        )
        loss = cct.cct_training_loss(
            steps=settings.steps,
            generator=generator,
            unsupervised_weight=settings.unsupervised_weight if trainer.consistency else 0.0,
            weak_weight_auxiliary=settings.weak_weight_auxiliary if trainer.pseudo else 0.0,
            weak_weight_main=settings.weak_weight_main if trainer.pseudo else 0.0,
            ramp=settings.ramp if trainer.consistency or trainer.pseudo else 0.0,
            reduction="sum_labels",
        )
        advice = (
            "raise compute.accumulate, or lower cct.batch_labelled, cct.batch_weak or augment.crop"
        )
        with resuming(folder, method, settings.steps, device, advice) as how:
            history = train(
                model,
                loss,
                batches,
                optimiser=optimiser,
                schedule=new_schedule(kind, optimiser, settings.steps),
                amp=not profile.compute.full_precision,
                accumulate=profile.compute.accumulate,
                frozen_norm=model.backbone if profile.compute.frozen_norm else None,
                generator=generator,
                seed=profile.seed,
                **how,
            )
        write_json(folder / "history.json", history)
        save_tensors(folder / "weights.safetensors", model.state_dict())

    return make_once(
        profile, "weights", method, make, settings=[*NETWORK, *TRAINING, *read], inputs=inputs
    )


def load_cct(profile: Profile, method: str) -> CCT:
    """A trained CCT in eval mode, trained now when it is not there yet."""
    model = new_cct(profile)
    model.load_state_dict(load_tensors(train_cct(profile, method) / "weights.safetensors"))
    return model.to(device_of(profile)).to(memory_format=torch.channels_last).eval()


def cct_predictor(profile: Profile, method: str) -> Callable[[Tensor], Tensor]:
    """A trained CCT: pictures uint8 (B, 3, H, W) -> masks uint8 (B, H, W), no labels given.

    Probabilities are averaged over picture and mirror image.
    """
    model, device = load_cct(profile, method), device_of(profile)
    amp = not profile.compute.full_precision

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        x = normalise(images.to(device).float() / 255)
        with autocast(device, amp), explains_out_of_memory(device, "lower inference.batch"):
            scores = model(x).softmax(1) + model(x.flip(-1)).softmax(1).flip(-1)
        return scores.argmax(1).to(torch.uint8).cpu()

    return predict
