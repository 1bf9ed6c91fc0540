"""The number a weakly supervised method is judged by: DeepLab trained on its pseudo masks.

DeepLabV3 (Chen et al., 2017) from torchvision's parts on the profile's backbone. It sees pictures
and pseudo masks, no truth; at test time no labels are given. Notebook 04 shows it.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from clims_lib.artifacts import (
    artifact,
    key_in,
    load_checkpoint,
    load_tensors,
    read_manifest,
    save_checkpoint,
    save_tensors,
    write_json,
)
from clims_lib.batches import MemoryBatches
from clims_lib.cam import CAMNet
from clims_lib.clip_model import autocast
from clims_lib.config import Profile
from clims_lib.data.splits import read_sizes, read_split
from clims_lib.devices import bar, device_of, explains_out_of_memory
from clims_lib.objectives import mask_loss
from clims_lib.stages.masks import Predict, keep_segmentations, make_pseudo_masks, read_masks
from clims_lib.stages.measures import measure_masks
from clims_lib.stages.networks import load_network, new_network, train_cam, unusual
from clims_lib.stages.walk import network_of
from clims_lib.training import epoch_means, head_and_body, new_optimiser, new_schedule, train


class DeepLab(nn.Module):
    """A CAM network's backbone, atrous spatial pyramid pooling, and a classifier of every place.

    (B, 3, H, W) in [0, 1] -> scores (B, K + 1, H, W). rates: dilations of the pyramid's branches.
    """

    def __init__(self, network: CAMNet, num_labels: int, width: int, rates: tuple[int, ...]):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.backbone, self.mean, self.std = network.backbone, network.mean, network.std
        self.head = nn.Sequential(
            ASPP(network.channels, list(rates), width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, num_labels, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        scores = self.head(self.backbone((images - self.mean) / self.std))
        return F.interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=False)


def method_of(profile: Profile) -> str:
    """The row's name: "deeplab_clims" on masks from the maps of CLIMS, refined or not."""
    return f"deeplab_{network_of(profile.pseudo.method)}"


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
    settings, by = profile.deeplab, profile.pseudo
    masks = make_pseudo_masks(profile, by.method, "train", by.crf)

    def make(folder: Path) -> None:
        device, model = device_of(profile), new_deeplab(profile)
        model.backbone.load_state_dict(load_network(profile, "cam").backbone.state_dict())
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        images, labels, _ = read_split(profile, "train")
        batches = MemoryBatches(
            images,
            labels,
            read_masks(profile, masks, "train"),
            settings.batch,
            profile.seed,
            read_sizes(profile, "train"),
            profile.augment.crop,
            profile.augment.resize,
        )
        state, per_epoch = load_checkpoint(folder), batches.steps_per_epoch
        steps, kind = settings.epochs * per_epoch, profile.compute.optimiser
        groups = head_and_body(model, settings.lr, settings.head_lr_factor)
        optimiser = new_optimiser(kind, groups, settings.lr, settings.weight_decay)
        advice = "raise compute.accumulate, or lower deeplab.batch or augment.crop"
        with (
            bar(steps, "DeepLab", (state or {}).get("step", 0)) as progress,
            explains_out_of_memory(device, advice),
        ):
            history = train(
                model,
                mask_loss(),
                batches,
                steps=steps,
                optimiser=optimiser,
                schedule=new_schedule(kind, optimiser, steps, per_epoch),
                steps_per_epoch=per_epoch,
                seed=profile.seed,
                state=state,
                save=lambda state: save_checkpoint(folder, **state),
                progress=progress,
                accumulate=profile.compute.accumulate,
                frozen_norm=model.backbone if profile.compute.frozen_norm else None,
                amp=not profile.compute.full_precision,
            )
        write_json(folder / "history.json", epoch_means(history, per_epoch))
        save_tensors(folder / "weights.safetensors", model.state_dict())

    recipe = {
        "deeplab": settings,
        "cam": profile.cam,
        "augment": profile.augment,
        "masks": key_in(masks),
        "start": key_in(train_cam(profile, "cam")),
        "seed": profile.seed,
        **unusual(profile),
    }
    return artifact(profile.outputs / "weights", method_of(profile), recipe, make)


def load_predictor(profile: Profile) -> Predict:
    """The trained DeepLab: pictures uint8 (B, 3, S, S) -> masks uint8 (B, S, S), no labels given.

    Probabilities are averaged over the profile's scales and mirror images.
    """
    model, device = new_deeplab(profile), device_of(profile)
    model.load_state_dict(load_tensors(train_deeplab(profile) / "weights.safetensors"))
    model = model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        x = images.to(device).float() / 255
        total = x.new_zeros(())
        for scale in profile.deeplab.scales:
            to = [max(1, round(side * scale)) for side in x.shape[-2:]]
            scaled = F.interpolate(x, to, mode="bilinear", align_corners=False)
            with autocast(device, True), explains_out_of_memory(device, "lower inference.batch"):
                scores = model(scaled).float().softmax(1)
                scores = scores + model(scaled.flip(-1)).float().softmax(1).flip(-1)
            total = total + F.interpolate(scores, x.shape[-2:], mode="bilinear")
        return total.argmax(1).to(torch.uint8).cpu()

    return predict


def make_deeplab_masks(profile: Profile, split: str) -> Path:
    """The folder of DeepLab's masks of a split, <name>.png."""
    weights = train_deeplab(profile)
    return keep_segmentations(
        profile, method_of(profile), split, lambda: load_predictor(profile), weights
    )


def measure_deeplab(profile: Profile) -> list[dict]:
    """Its rows on every evaluated split."""
    masks = {split: make_deeplab_masks(profile, split) for split in profile.data.evaluated}
    seconds = read_manifest(train_deeplab(profile))["seconds"]
    return measure_masks(
        profile, method_of(profile), masks, threshold=None, crf=False, seconds=seconds
    )
