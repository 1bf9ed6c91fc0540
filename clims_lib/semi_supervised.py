"""The last arrow: pseudo masks of the weak pictures, and CCT trained with them (notebook 06).

The same CAM-sized network learns from few pixel-labelled pictures and many with image-level labels
only. At test time no labels are given.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm

from clims_lib import cct
from clims_lib.artifacts import (
    artifact,
    key_in,
    load_checkpoint,
    load_tensors,
    read_json,
    read_manifest,
    save_checkpoint,
    save_tensors,
    write_json,
)
from clims_lib.cam import MEAN, STD, CAMNet
from clims_lib.clip_model import autocast
from clims_lib.config import Profile, did_you_mean
from clims_lib.measures import (
    choose_threshold,
    row_of,
    segment,
)
from clims_lib.results import rounded
from clims_lib.stages import (
    device_of,
    load_network,
    make_data,
    new_network,
    read_split,
    train_cam,
)
from clims_lib.voc import VOCFolder, read_mask, write_mask

# What each method uses: consistency of perturbed decoders, and pseudo masks of the weak pictures.
CCT_METHODS = {
    "supervised": (False, False),
    "pseudo_only": (False, True),
    "cct": (True, False),
    "cct_clims": (True, True),
}


def make_pseudo_masks(profile: Profile, method: str, split: str, use_crf: bool = True) -> Path:
    """Segment a split from its image-level labels; returns the folder of <name>.png masks."""
    weights = train_cam(profile, method)

    def make(folder: Path) -> None:
        names = VOCFolder(make_data(profile), split, profile.data.classes, masks=False).names
        images, labels, _ = read_split(profile, split)
        choice = choose_threshold(profile, method, use_crf)
        masks = segment(profile, method, images, labels, choice, use_crf)
        for name, mask in zip(names, masks, strict=True):
            write_mask(folder / f"{name}.png", mask.numpy())

    recipe = {"weights": key_in(weights), "split": split, "inference": profile.inference,
              "crf": profile.crf if use_crf else None}  # fmt: skip
    return artifact(profile.outputs / "pseudo_masks", f"{method}_{split}", recipe, make)


class _Trunk(nn.Module):
    """The CAM network without its head: normalised pictures -> features."""

    def __init__(self, network: CAMNet):
        super().__init__()
        self.backbone = network.backbone

    def forward(self, x: Tensor) -> Tensor:
        net = self.backbone
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        return net.layer4(net.layer3(net.layer2(net.layer1(x))))


def new_cct(profile: Profile) -> cct.CCT:
    """CCT on the profile's CAM backbone, with fresh weights from its seed."""
    network, settings = new_network(profile), profile.cct
    with torch.random.fork_rng():
        torch.manual_seed(profile.seed)
        return cct.CCT(
            _Trunk(network), network.channels, len(profile.data.classes) + 1,
            settings.feature_channels, settings.perturbations, profile.cam.stride,
        )  # fmt: skip


def normalise(images: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) -> the backbone's units."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def draw_order(count: int, batch_size: int, steps: int, generator: Generator) -> Tensor:
    """Which pictures each step sees: int64 (steps, batch_size), every picture once an epoch.

    Fixed before training starts, so that one may go on from any step.
    """
    if min(count, batch_size, steps) < 1:
        raise ValueError(f"count {count}, batch_size {batch_size}, steps {steps}: all must be >= 1")
    epochs = math.ceil(batch_size * steps / count)
    order = [torch.randperm(count, generator=generator) for _ in range(epochs)]
    return torch.cat(order)[: batch_size * steps].view(steps, batch_size)


def _batches(images: Tensor, masks: Tensor | None, size: int, steps: int, seed: int) -> cct.Batches:
    """Mirrored at random; step and seed decide a batch, so a run may go on from any step."""
    generator = torch.Generator().manual_seed(seed)
    order = draw_order(len(images), size, steps, generator)
    mirror = torch.rand(order.shape, generator=generator) < 0.5

    def start_at(start: int):
        for some, flip in zip(order[start:], mirror[start:], strict=True):
            x = normalise(images[some])
            x = torch.where(flip[:, None, None, None], x.flip(-1), x)
            m = None if masks is None else masks[some]
            yield x, None if m is None else torch.where(flip[:, None, None], m.flip(-1), m)

    return start_at


def train_cct(profile: Profile, method: str) -> Path:
    """Train one of CCT_METHODS; returns the folder of weights and history.json."""
    if method not in CCT_METHODS:
        raise ValueError(f"no method {method!r}{did_you_mean(method, CCT_METHODS)}")
    settings, (consistent, pseudo) = profile.cct, CCT_METHODS[method]
    source = make_pseudo_masks(profile, "clims", "train_weak") if pseudo else None

    def make(folder: Path) -> None:
        model = new_cct(profile)
        # The published encoder starts from ImageNet; ours from the baseline CAM network.
        model.backbone.backbone.load_state_dict(load_network(profile, "cam").backbone.state_dict())
        model = model.to(device_of(profile))
        images, _, masks = read_split(profile, "train_labelled", masks=True)
        labelled = _batches(images, masks, settings.batch_labelled, settings.steps, profile.seed)
        weak = None
        if consistent or pseudo:
            images, _, _ = read_split(profile, "train_weak")
            masks = _pseudo_masks_of(profile, source) if source else None
            weak = _batches(images, masks, settings.batch_weak, settings.steps, profile.seed + 1)
        with tqdm(total=settings.steps, desc=method) as bar:
            history = cct.train_cct(
                model, labelled, weak, steps=settings.steps, lr=settings.lr,
                weight_decay=settings.weight_decay, bf16=True, state=load_checkpoint(folder),
                generator=torch.Generator(device_of(profile)).manual_seed(profile.seed),
                save=lambda state: save_checkpoint(folder, **state),
                progress=lambda step, parts: bar.update(),
                unsupervised_weight=settings.unsupervised_weight if consistent else 0.0,
                weak_weight_auxiliary=settings.weak_weight_auxiliary if pseudo else 0.0,
                weak_weight_main=settings.weak_weight_main if pseudo else 0.0,
                ramp=settings.ramp, reduction="sum_labels",
            )  # fmt: skip
        write_json(folder / "history.json", history)
        save_tensors(folder / "weights.safetensors", model.state_dict())

    recipe = {"method": method, "cct": settings, "cam": profile.cam, "seed": profile.seed,
              "data": profile.data, "start": key_in(train_cam(profile, "cam")),
              "masks": key_in(source) if source else None}  # fmt: skip
    return artifact(profile.outputs / "weights", method, recipe, make)


def _pseudo_masks_of(profile: Profile, folder: Path) -> Tensor:
    names = VOCFolder(make_data(profile), "train_weak", profile.data.classes, masks=False).names
    return torch.stack([torch.as_tensor(read_mask(folder / f"{name}.png")) for name in names])


def load_cct(profile: Profile, method: str) -> cct.CCT:
    """A trained CCT in eval mode, trained now when it is not there yet."""
    model = new_cct(profile)
    model.load_state_dict(load_tensors(train_cct(profile, method) / "weights.safetensors"))
    return model.to(device_of(profile), memory_format=torch.channels_last).eval()


@torch.no_grad()
def predict(profile: Profile, method: str, images: Tensor) -> Tensor:
    """Masks uint8 (N, H, W) of pictures uint8 (N, 3, H, W), no labels given; mirrored and not."""
    device, model = device_of(profile), load_cct(profile, method)
    masks = []
    for part in images.split(profile.inference.batch):
        x = normalise(part).to(device)
        with autocast(device, True):
            scores = model(x).softmax(1) + model(x.flip(-1)).softmax(1).flip(-1)
        masks.append(scores.argmax(1).to(torch.uint8).cpu())
    return torch.cat(masks)


def measure_cct(profile: Profile, method: str) -> list[dict]:
    """Rows of one semi-supervised method on val and test."""
    weights = train_cct(profile, method)

    def make(folder: Path) -> None:
        rows = []
        for split in ("val", "test"):
            images, _, truth = read_split(profile, split, masks=True)
            row = row_of(profile, method, split, predict(profile, method, images), truth)
            seconds = read_manifest(weights)["seconds"]
            rows.append(row | {"threshold": None, "crf": False, "seconds": seconds})
        write_json(folder / "rows.json", rounded(rows))

    recipe = {"weights": key_in(weights)}
    return read_json(artifact(profile.outputs / "measured", method, recipe, make) / "rows.json")
