"""The last arrow: pseudo masks of the weak pictures, and CCT trained with them (notebook 06).

The same CAM-sized network learns from few pixel-labelled pictures and many with image-level labels
only. At test time no labels are given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor

from clims_lib import cct
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
from clims_lib.batches import DrawnBatches
from clims_lib.cam import MEAN, STD
from clims_lib.cct_network import CCT
from clims_lib.clip_model import autocast
from clims_lib.config import Profile, did_you_mean
from clims_lib.data.splits import read_sizes, read_split, split_folder
from clims_lib.devices import bar, device_of, explains_out_of_memory
from clims_lib.stages.masks import Predict, keep_segmentations, make_pseudo_masks, read_masks
from clims_lib.stages.measures import measure_masks
from clims_lib.stages.networks import load_network, new_network, train_cam, unusual
from clims_lib.stages.walk import network_of
from clims_lib.training import new_optimiser, new_schedule, train


def methods_of(profile: Profile) -> dict[str, tuple[bool, bool]]:
    """{name: (consistency of perturbed decoders?, pseudo masks of the weak pictures?)}.

    The last one is named after the masks: "cct_clims" with those of CLIMS, refined or not.
    """
    return {
        "supervised": (False, False),
        "pseudo_only": (False, True),
        "cct": (True, False),
        f"cct_{network_of(profile.pseudo.method)}": (True, True),
    }


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
    """Train one of methods_of(profile); returns the folder of weights and history.json."""
    methods, settings, masks_by = methods_of(profile), profile.cct, profile.pseudo
    if method not in methods:
        raise ValueError(f"no method {method!r}{did_you_mean(method, methods)}")
    consistent, pseudo = methods[method]
    source = None
    if pseudo:  # of all train pictures, as DeepLab's; the weak ones are read
        source = make_pseudo_masks(profile, masks_by.method, "train", masks_by.crf)

    def make(folder: Path) -> None:
        model = new_cct(profile)
        # The published encoder starts from ImageNet; ours from the baseline CAM network.
        model.backbone.load_state_dict(load_network(profile, "cam").backbone.state_dict())
        device, state = device_of(profile), load_checkpoint(folder)
        model = model.to(device, memory_format=torch.channels_last)
        images, _, masks = read_split(profile, "train_labelled", masks=True)
        form = {"steps": settings.steps} | asdict(profile.augment)
        labelled = DrawnBatches(
            images,
            masks,
            settings.batch_labelled,
            seed=profile.seed,
            sizes=read_sizes(profile, "train_labelled"),
            **form,
        )
        weak = None
        if consistent or pseudo:
            weak = DrawnBatches(
                read_split(profile, "train_weak")[0],
                read_masks(profile, source, "train_weak") if source else None,
                settings.batch_weak,
                seed=profile.seed + 1,
                sizes=read_sizes(profile, "train_weak"),
                **form,
            )

        def batches(start: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor | None]]:
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
            unsupervised_weight=settings.unsupervised_weight if consistent else 0.0,
            weak_weight_auxiliary=settings.weak_weight_auxiliary if pseudo else 0.0,
            weak_weight_main=settings.weak_weight_main if pseudo else 0.0,
            ramp=settings.ramp,
            reduction="sum_labels",
        )
        advice = (
            "raise compute.accumulate, or lower cct.batch_labelled, cct.batch_weak or augment.crop"
        )
        with (
            bar(settings.steps, method, (state or {}).get("step", 0)) as progress,
            explains_out_of_memory(device, advice),
        ):
            history = train(
                model,
                loss,
                batches,
                steps=settings.steps,
                optimiser=optimiser,
                schedule=new_schedule(kind, optimiser, settings.steps),
                amp=not profile.compute.full_precision,
                accumulate=profile.compute.accumulate,
                frozen_norm=model.backbone if profile.compute.frozen_norm else None,
                generator=generator,
                seed=profile.seed,
                state=state,
                save=lambda state: save_checkpoint(folder, **state),
                progress=progress,
            )
        write_json(folder / "history.json", history)
        save_tensors(folder / "weights.safetensors", model.state_dict())

    recipe = {
        "method": method,
        "cct": settings,
        "cam": profile.cam,
        "seed": profile.seed,
        "augment": profile.augment,
        "start": key_in(train_cam(profile, "cam")),
        "data": [key_in(split_folder(profile, s)) for s in ("train_labelled", "train_weak")],
        "masks": key_in(source) if source else None,
        **unusual(profile),
    }
    return artifact(profile.outputs / "weights", method, recipe, make)


def load_cct(profile: Profile, method: str) -> CCT:
    """A trained CCT in eval mode, trained now when it is not there yet."""
    model = new_cct(profile)
    model.load_state_dict(load_tensors(train_cct(profile, method) / "weights.safetensors"))
    return model.to(device_of(profile), memory_format=torch.channels_last).eval()


def predictor(profile: Profile, method: str) -> Predict:
    """A trained CCT: pictures uint8 (B, 3, H, W) -> masks uint8 (B, H, W), no labels given.

    Probabilities are averaged over picture and mirror image.
    """
    model, device = load_cct(profile, method), device_of(profile)

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        x = normalise(images.to(device).float() / 255)
        with autocast(device, True), explains_out_of_memory(device, "lower inference.batch"):
            scores = model(x).softmax(1) + model(x.flip(-1)).softmax(1).flip(-1)
        return scores.argmax(1).to(torch.uint8).cpu()

    return predict


def segment(profile: Profile, method: str, split: str) -> Path:
    """The folder of a semi-supervised method's masks of a split, <name>.png."""
    weights = train_cct(profile, method)
    return keep_segmentations(profile, method, split, lambda: predictor(profile, method), weights)


def measure_cct(profile: Profile, method: str) -> list[dict]:
    """Rows of one semi-supervised method on val and test."""
    masks = {split: segment(profile, method, split) for split in profile.data.evaluated}
    seconds = read_manifest(train_cct(profile, method))["seconds"]
    return measure_masks(profile, method, masks, threshold=None, crf=False, seconds=seconds)
