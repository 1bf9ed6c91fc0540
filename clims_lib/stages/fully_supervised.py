"""The stage of DeepLab: the number a weakly supervised method is judged by (notebook 04).

It sees pictures and pseudo masks, no truth; at test time no labels are given.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clims_lib.artifacts import load_tensors, save_tensors, write_json
from clims_lib.batches import MemoryBatches
from clims_lib.clip_model import autocast
from clims_lib.config import Profile
from clims_lib.data.splits import read_sizes, read_split, split_folder
from clims_lib.deeplab import DeepLab
from clims_lib.devices import device_of, explains_out_of_memory
from clims_lib.objectives import mask_loss
from clims_lib.stage import make_once, resuming
from clims_lib.stages.masks import make_pseudo_masks, read_folder
from clims_lib.stages.methods import pseudo_row, row_of
from clims_lib.stages.networks import (
    NETWORK,
    TRAINING,
    crops_of,
    load_network,
    new_network,
    train_cam,
)
from clims_lib.training import epoch_means, head_and_body, new_optimiser, new_schedule, train

FIELDS = ("width", "rates", "epochs", "batch", "lr", "head_lr_factor", "weight_decay")


def new_deeplab(profile: Profile) -> DeepLab:
    """DeepLab on the profile's backbone, with fresh weights from its seed."""
    settings = profile.deeplab
    with torch.random.fork_rng():
        network = new_network(profile)
        torch.manual_seed(profile.seed)
        return DeepLab(network, len(profile.data.classes) + 1, settings.width, settings.rates)


def train_deeplab(profile: Profile) -> Path:
    """Train on the pseudo masks of all train pictures; returns the folder of weights and history.

    The backbone starts from the baseline CAM network's, which saw image-level labels only.
    """
    settings, masks = profile.deeplab, make_pseudo_masks(profile, pseudo_row(profile), "train")

    def make(folder: Path) -> None:
        device, model = device_of(profile), new_deeplab(profile)
        model.backbone.load_state_dict(load_network(profile, "cam").backbone.state_dict())
        model = model.to(device).to(memory_format=torch.channels_last)
        images, labels, _ = read_split(profile, "train")
        batches = MemoryBatches(
            images,
            labels,
            read_folder(profile, masks, "train"),
            settings.batch,
            profile.seed,
            read_sizes(profile, "train"),
            **crops_of(profile),
            device=device,
        )
        per_epoch = batches.steps_per_epoch
        steps, kind = settings.epochs * per_epoch, profile.compute.optimiser
        groups = head_and_body(model, settings.lr, settings.head_lr_factor)
        optimiser = new_optimiser(kind, groups, settings.lr, settings.weight_decay)
        advice = "raise compute.accumulate, or lower deeplab.batch or augment.crop"
        with resuming(folder, "DeepLab", steps, device, advice) as how:
            history = train(
                model,
                mask_loss(),
                batches,
                optimiser=optimiser,
                schedule=new_schedule(kind, optimiser, steps, per_epoch),
                steps_per_epoch=per_epoch,
                seed=profile.seed,
                **how,
                accumulate=profile.compute.accumulate,
                frozen_norm=model.backbone if profile.compute.frozen_norm else None,
                amp=not profile.compute.full_precision,
            )
        write_json(folder / "history.json", epoch_means(history, per_epoch))
        save_tensors(folder / "weights.safetensors", model.state_dict())

    name = f"deeplab_{row_of(profile.pseudo.method).method}"
    read = [f"deeplab.{field}" for field in FIELDS] + ["compute.optimiser", "cam.normalisation"]
    inputs = {
        "start": train_cam(profile, "cam"),
        "images": split_folder(profile, "train"),
        "pseudo masks": masks,
    }
    return make_once(
        profile, "weights", name, make, settings=[*NETWORK, *TRAINING, *read], inputs=inputs
    )


def deeplab_predictor(profile: Profile, name: str = "") -> Callable[[Tensor], Tensor]:
    """The trained DeepLab: pictures uint8 (B, 3, S, S) -> masks uint8 (B, S, S), no labels given.

    Probabilities are averaged over the profile's scales and mirror images.
    """
    model, device = new_deeplab(profile), device_of(profile)
    model.load_state_dict(load_tensors(train_deeplab(profile) / "weights.safetensors"))
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    amp = not profile.compute.full_precision

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        x = images.to(device).float() / 255
        total = x.new_zeros(())
        for scale in profile.deeplab.scales:
            to = [max(1, round(side * scale)) for side in x.shape[-2:]]
            scaled = F.interpolate(x, to, mode="bilinear", align_corners=False)
            with autocast(device, amp), explains_out_of_memory(device, "lower inference.batch"):
                scores = model(scaled).float().softmax(1)
                scores = scores + model(scaled.flip(-1)).float().softmax(1).flip(-1)
            total = total + F.interpolate(scores, x.shape[-2:], mode="bilinear")
        return total.argmax(1).to(torch.uint8).cpu()

    return predict
