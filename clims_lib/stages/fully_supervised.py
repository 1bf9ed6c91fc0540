"""The stage of DeepLab: the number a weakly supervised method is judged by (notebook 04).

It sees pictures and pseudo masks, no truth; at test time no labels are given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clims_lib import deeplab
from clims_lib.artifacts import load_tensors, save_tensors, write_json
from clims_lib.batches import MemoryBatches
from clims_lib.clip_model import autocast
from clims_lib.config import Profile
from clims_lib.crf import dense_crf
from clims_lib.data.splits import read_sizes, read_split, split_folder
from clims_lib.devices import device_of, explains_out_of_memory
from clims_lib.objectives import mask_loss
from clims_lib.optimisers import head_and_body, new_optimiser, new_schedule
from clims_lib.settings_masks import DenseCrf
from clims_lib.stage import make_once, resuming
from clims_lib.stages.encoders import encoder_settings, load_start, new_encoder, start_inputs
from clims_lib.stages.masks import make_pseudo_masks, read_folder
from clims_lib.stages.methods import as_trained, pseudo_row
from clims_lib.training import epoch_means, train

OF_BOTH = (
    *("version", "norms", "rates", "crop", "resize", "steps", "batch", "accumulate"),
    *("optimiser", "decay_every", "lr", "weight_decay"),
)
OF_VERSION = {2: ("pyramid",), 3: ("width", "head_lr_factor")}
LEAST = 1e-5  # a probability that the CRF is given, as pydensecrf has it


def deeplab_settings(profile: Profile) -> list[str]:
    """The settings that training reads."""
    own = [*OF_BOTH, *OF_VERSION[profile.deeplab.version]]
    shared = ["compute.accumulate", "compute.full_precision"]
    return [*encoder_settings(profile, "deeplab"), *shared, *(f"deeplab.{name}" for name in own)]


def deeplab_settings_at_test(profile: Profile) -> list[str]:
    """The settings that masks of pictures depend on besides."""
    names = [field.name for field in fields(DenseCrf)]
    crf = names if profile.deeplab.crf.iterations else ["iterations"]
    own = ["scales", "flip", "test_size", *(f"crf.{name}" for name in crf)]
    return [f"deeplab.{name}" for name in own]


def new_deeplab(profile: Profile) -> deeplab.DeepLab | deeplab.DeepLabV2:
    """DeepLab on a backbone of its section's, with fresh weights from the profile's seed."""
    settings, labels = profile.deeplab, len(profile.data.classes) + 1
    with torch.random.fork_rng():
        network = new_encoder(profile, "deeplab")
        torch.manual_seed(profile.seed)
        if settings.version == 2:
            return deeplab.DeepLabV2(network, labels, settings.rates, settings.pyramid)
        return deeplab.DeepLab(network, labels, settings.width, settings.rates)


def learning_of_deeplab(
    profile: Profile, model: deeplab.DeepLab | deeplab.DeepLabV2, per_epoch: int
) -> dict[str, Any]:
    """How DeepLab learns: what `training.train` is handed besides batches, of which an epoch has
    per_epoch."""
    settings, lr = profile.deeplab, profile.deeplab.lr
    if isinstance(model, deeplab.DeepLabV2):
        loss, groups = deeplab.all_scales_loss(), model.groups(lr, settings.weight_decay)
    else:
        loss, groups = mask_loss(), head_and_body(model, lr, settings.head_lr_factor)
    optimiser = new_optimiser(settings.optimiser, groups, lr, settings.weight_decay)
    every = settings.decay_every or per_epoch
    return {
        "loss": loss,
        "steps": settings.steps,
        "optimiser": optimiser,
        "schedule": new_schedule(settings.optimiser, optimiser, settings.steps, every),
        "steps_per_epoch": per_epoch,
        "seed": profile.seed,
        "accumulate": settings.accumulate * profile.compute.accumulate,
        "frozen_norm": model.backbone if settings.norms == "fixed" else None,
        "amp": not profile.compute.full_precision,
    }


def train_deeplab(profile: Profile, name: str) -> Path:
    """Train on the pseudo masks of all train pictures; returns the folder of weights and history.

    name: of `methods.trainers`, "deeplab_clims". Raises ValueError for another name, and for a
    `start` that the network cannot have.
    """
    profile = as_trained(profile, name)
    settings, start = profile.deeplab, start_inputs(profile, "deeplab")
    masks = make_pseudo_masks(profile, pseudo_row(profile), "train")

    def make(folder: Path) -> None:
        device, model = device_of(profile), new_deeplab(profile)
        load_start(profile, "deeplab", model.backbone)
        model = model.to(device).to(memory_format=torch.channels_last)
        images, labels, _ = read_split(profile, "train")
        batches = MemoryBatches(
            images,
            labels,
            read_folder(profile, masks, "train"),
            settings.batch * settings.accumulate,
            profile.seed,
            read_sizes(profile, "train"),
            settings.crop,
            settings.resize,
            device=device,
        )
        per_epoch = batches.steps_per_epoch
        advice = "raise compute.accumulate, or lower deeplab.batch or deeplab.crop"
        with resuming(folder, "DeepLab", settings.steps, device, advice) as how:
            history = train(
                model, batches=batches, **learning_of_deeplab(profile, model, per_epoch) | how
            )
        write_json(folder / "history.json", epoch_means(history, per_epoch))
        save_tensors(folder / "weights.safetensors", model.state_dict())

    inputs = {"images": split_folder(profile, "train"), "pseudo masks": masks} | start
    read = deeplab_settings(profile)
    return make_once(profile, "weights", name, make, settings=read, inputs=inputs)


def deeplab_predictor(profile: Profile, name: str) -> Callable[[Tensor], Tensor]:
    """A trained DeepLab: pictures uint8 (B, 3, H, W) -> masks uint8 (B, H, W), no labels given.

    Probabilities are averaged over the section's scales and, if asked for, mirror images; a CRF
    may follow.
    """
    model, device, settings = new_deeplab(profile), device_of(profile), profile.deeplab
    model.load_state_dict(load_tensors(train_deeplab(profile, name) / "weights.safetensors"))
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    amp, views = not profile.compute.full_precision, len(settings.scales) * (1 + settings.flip)

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        x = images.to(device).float() / 255
        total = x.new_zeros(())
        for scale in settings.scales:
            to = [max(1, round(side * scale)) for side in x.shape[-2:]]
            scaled = F.interpolate(x, to, mode="bilinear", align_corners=False)
            with autocast(device, amp), explains_out_of_memory(device, "lower inference.batch"):
                scores = model(scaled).float().softmax(1)
                if settings.flip:
                    scores = scores + model(scaled.flip(-1)).float().softmax(1).flip(-1)
            total = total + F.interpolate(scores, x.shape[-2:], mode="bilinear")
        if settings.crf.iterations:
            energies = -(total / views).clamp(min=LEAST).log()
            total = torch.cat(
                [  # one by one: at their own sizes they are large
                    dense_crf(energy[None], picture[None], **asdict(settings.crf))
                    for energy, picture in zip(energies, x, strict=True)
                ]
            )
        return total.argmax(1).to(torch.uint8).cpu()

    return predict
