"""The stage of the semi-supervised networks: CCT, with or without pseudo masks (notebook 06).

The same CAM-sized network learns from few pixel-labelled pictures and many with image-level labels
only. At test time no labels are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clims_lib import cct
from clims_lib.artifacts import key_of, load_tensors, save_tensors, write_json
from clims_lib.backbones import MEAN, STD
from clims_lib.batches import DrawnBatches
from clims_lib.cct_crops import ScaledBatches
from clims_lib.cct_network import CCT, padded_scores
from clims_lib.clip_model import autocast
from clims_lib.config import Profile, did_you_mean
from clims_lib.data.splits import open_split, read_sizes, read_split, split_folder
from clims_lib.devices import device_of, explains_out_of_memory
from clims_lib.optimisers import new_optimiser, new_schedule
from clims_lib.perturbations import PERTURBATIONS, RELEASED
from clims_lib.stage import make_once, resuming
from clims_lib.stages.encoders import encoder_settings, load_start, new_encoder, start_inputs
from clims_lib.stages.masks import make_pseudo_masks, read_folder
from clims_lib.stages.methods import Trainer, as_trained, pseudo_row, trainer_of
from clims_lib.training import StepBatch, train

SUPERVISED = (
    *("steps", "norms", "feature_channels", "output_stride", "decoder", "auxiliary"),
    *("crops", "crop", "batch_labelled", "supervised_loss"),
    *("optimiser", "lr", "backbone_lr_factor", "weight_decay"),
)
WEAK = ("batch_weak", "ramp")
CONSISTENCY = ("unsupervised_weight", "reduction")
PSEUDO = ("weak_weight_auxiliary", "weak_weight_main")
OF_CROPS = {"factor": "resize", "long_side": "base"}


def cct_settings(profile: Profile, trainer: Trainer) -> list[str]:
    """The settings that training reads."""
    own = [*SUPERVISED, OF_CROPS[profile.cct.crops]]
    if perturbs(trainer):
        own += [*WEAK, *_of_perturbations(profile)]
    own += [*CONSISTENCY * trainer.consistency, *PSEUDO * trainer.pseudo]
    shared = ["compute.accumulate", "compute.full_precision"]
    return [*encoder_settings(profile, "cct"), *shared, *(f"cct.{name}" for name in own)]


def cct_settings_at_test(profile: Profile) -> list[str]:
    """The settings that masks of pictures depend on besides."""
    return ["cct.flip", "cct.test_size"]


def perturbs(trainer: Trainer) -> bool:
    """Whether auxiliary decoders learn: from the main one, from pseudo masks or from both."""
    return trainer.consistency or trainer.pseudo


def new_cct(profile: Profile, perturbed: bool = True) -> CCT:
    """CCT on a backbone of its section's, with fresh weights from the profile's seed.

    perturbed: give the perturbations their options, which nothing but training asks for.
    """
    network, settings = new_encoder(profile, "cct"), profile.cct
    with torch.random.fork_rng():
        torch.manual_seed(profile.seed)
        return CCT(
            network.backbone,
            network.channels,
            len(profile.data.classes) + 1,
            settings.feature_channels,
            settings.perturbations,
            max(1, settings.stride // settings.output_stride),
            settings.decoder,
            perturbation_options(profile) if perturbed else None,
        )


def perturbation_options(profile: Profile) -> dict[str, dict[str, Any]]:
    """{perturbation: its options}: what differs from the defaults of perturbations.py."""
    settings, known = profile.cct, _of_perturbations(profile)
    released = bool(known) and settings.perturbation_options == "released"
    found = {name: dict(RELEASED.get(name, {})) if released else {} for name in settings.auxiliary}
    if "vat_xi" in known:
        found["i_vat"] |= {"xi": settings.vat_xi}
    if "cutout_rule" in known:
        found["guided_cutout"] |= {"rule": settings.cutout_rule}
    return found


def _of_perturbations(profile: Profile) -> list[str]:
    """The settings that the profile's perturbations have; those without decoders have none."""
    of = {"i_vat": "vat_xi", "guided_cutout": "cutout_rule"}
    used = profile.cct.perturbations
    return ["perturbation_options"] * bool(used) + [of[name] for name in of if name in used]


def normalise(images: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] -> the backbone's units."""
    mean, std = (torch.tensor(v, device=images.device).view(3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std


def train_cct(profile: Profile, method: str) -> Path:
    """Train one of `methods.trainers`; returns the folder of weights and history.json.

    Raises ValueError for another name, an unknown perturbation in cct.auxiliary, and for a `start`
    that the network cannot have.
    """
    profile = as_trained(profile, method)
    trainer, settings = trainer_of(profile, method), profile.cct
    check_auxiliary(profile)
    inputs = start_inputs(profile, "cct")
    for kind in ("images", "masks"):
        inputs[f"labelled {kind}"] = split_folder(profile, "train_labelled", kind)
    if perturbs(trainer):
        inputs["weak images"] = split_folder(profile, "train_weak")
    source = None
    if trainer.pseudo:  # of all train pictures, as DeepLab's; the weak ones are read
        source = inputs["pseudo masks"] = make_pseudo_masks(profile, pseudo_row(profile), "train")
        inputs["weak names"] = key_of(open_split(profile, "train_weak").names)

    def make(folder: Path) -> None:
        model = new_cct(profile, perturbs(trainer))
        load_start(profile, "cct", model.backbone)
        device = device_of(profile)
        model = model.to(device).to(memory_format=torch.channels_last)
        generator = torch.Generator(device)
        generator.manual_seed(profile.seed)
        batches = mixed_batches(profile, trainer, source)
        advice = "raise compute.accumulate, or lower cct.batch_labelled, cct.batch_weak or cct.crop"
        with resuming(folder, method, settings.steps, device, advice) as how:
            history = train(
                model, batches=batches, **learning_of_cct(profile, trainer, model, generator) | how
            )
        write_json(folder / "history.json", history)
        save_tensors(folder / "weights.safetensors", model.state_dict())

    read = cct_settings(profile, trainer)
    return make_once(profile, "weights", method, make, settings=read, inputs=inputs)


def check_auxiliary(profile: Profile) -> None:
    """Raise ValueError for an unknown perturbation in cct.auxiliary."""
    for name in profile.cct.auxiliary:
        if name not in PERTURBATIONS:
            near = did_you_mean(name, PERTURBATIONS, "cct.auxiliary.")
            raise ValueError(f"no perturbation is called {name!r}{near}")


def learning_of_cct(
    profile: Profile, trainer: Trainer, model: CCT, generator: torch.Generator
) -> dict[str, Any]:
    """How CCT learns: what `training.train` is handed besides batches. generator: the
    perturbations draw from it."""
    settings = profile.cct
    groups = model.groups(settings.lr, settings.backbone_lr_factor)
    optimiser = new_optimiser(
        settings.optimiser, groups, settings.lr, settings.weight_decay, fused=False
    )
    loss = cct.cct_training_loss(
        steps=settings.steps,
        generator=generator,
        unsupervised_weight=settings.unsupervised_weight if trainer.consistency else 0.0,
        weak_weight_auxiliary=settings.weak_weight_auxiliary if trainer.pseudo else 0.0,
        weak_weight_main=settings.weak_weight_main if trainer.pseudo else 0.0,
        ramp=settings.ramp if perturbs(trainer) else 0.0,
        reduction=settings.reduction if trainer.consistency else "mean",
        annealed=settings.supervised_loss == "ab_ce",
    )
    return {
        "loss": loss,
        "steps": settings.steps,
        "optimiser": optimiser,
        "schedule": new_schedule(settings.optimiser, optimiser, settings.steps),
        "amp": not profile.compute.full_precision,
        "accumulate": profile.compute.accumulate,
        "frozen_norm": model.backbone if settings.norms == "fixed" else None,
        "generator": generator,
        "seed": profile.seed,
    }


def mixed_batches(
    profile: Profile, trainer: Trainer, source: Path | None
) -> Callable[[int], Iterator[StepBatch]]:
    """What a step sees: labelled pictures and masks; weak ones and pseudo masks from a folder.

    Pictures are normalised; where there are no weak pictures or pseudo masks they are None. With
    crops by "long_side" an epoch lasts as long as the weak pictures, and the labelled batches come
    again with the same crops until it ends, as released.
    """
    settings, weak = profile.cct, None
    images, _, masks = read_split(profile, "train_labelled", masks=True)
    if perturbs(trainer):
        pseudo = read_folder(profile, source, "train_weak") if source else None
        others = read_split(profile, "train_weak")[0]
        weak = _crops(profile, "train_weak", others, pseudo, settings.batch_weak, 1)
    epoch = weak.steps_per_epoch if isinstance(weak, ScaledBatches) else None
    labelled = _crops(
        profile, "train_labelled", images, masks, settings.batch_labelled, steps_per_epoch=epoch
    )

    def batches(start: int) -> Iterator[StepBatch]:
        unlabelled = weak(start) if weak else repeat((None, None))
        for (x, m), (y, n) in zip(labelled(start), unlabelled, strict=False):
            yield normalise(x), m, None if y is None else normalise(y), n

    return batches


def _crops(
    profile: Profile,
    split: str,
    images: Tensor,
    masks: Tensor | None,
    size: int,
    seed: int = 0,
    steps_per_epoch: int | None = None,
) -> DrawnBatches | ScaledBatches:
    settings, sizes, seed = profile.cct, read_sizes(profile, split), profile.seed + seed
    there = device_of(profile)
    if settings.crops == "long_side":
        form: dict[str, Any] = {"base": settings.base, "crop": settings.crop, "device": there}
        return ScaledBatches(
            images, masks, size, seed, sizes, steps_per_epoch=steps_per_epoch, **form
        )
    form = {"crop": settings.crop, "resize": settings.resize, "device": there}
    return DrawnBatches(images, masks, size, settings.steps, seed, sizes, **form)


def load_cct(profile: Profile, method: str) -> CCT:
    """A trained CCT in eval mode, trained now when it is not there yet."""
    model = new_cct(profile, perturbed=False)
    model.load_state_dict(load_tensors(train_cct(profile, method) / "weights.safetensors"))
    return model.to(device_of(profile)).to(memory_format=torch.channels_last).eval()


def cct_predictor(profile: Profile, method: str) -> Callable[[Tensor], Tensor]:
    """A trained CCT: pictures uint8 (B, 3, H, W) -> masks uint8 (B, H, W), no labels given.

    Probabilities are averaged over picture and, if asked for, mirror image. Sides that are no
    multiples of the encoder's stride are mirrored up to them, as released.
    """
    model, device, settings = load_cct(profile, method), device_of(profile), profile.cct
    amp = not profile.compute.full_precision

    def probabilities(x: Tensor) -> Tensor:
        return padded_scores(model, x, settings.stride).softmax(1)

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        x = normalise(images.to(device).float() / 255)
        with autocast(device, amp), explains_out_of_memory(device, "lower inference.batch"):
            scores = probabilities(x)
            if settings.flip:
                scores = scores + probabilities(x.flip(-1)).flip(-1)
        return scores.argmax(1).to(torch.uint8).cpu()

    return predict
