"""The stages of CLIP: captions or a checkpoint -> CLIP -> finetuned CLIP -> encoded texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clims_lib import clip_model, finetune, prompts
from clims_lib.artifacts import write_json
from clims_lib.clip_model import CLIP
from clims_lib.config import ROOT, Profile, did_you_mean
from clims_lib.data.download import SOURCES
from clims_lib.data.pictures import digest_of
from clims_lib.data.splits import read_sizes, read_split, split_folder
from clims_lib.devices import device_of
from clims_lib.stage import make_once, resuming
from clims_lib.stages.methods import needs_clip
from clims_lib.stages.small_clip import CaptionBatches, learning_of_clip, small_clip, untrained_clip
from clims_lib.training import Batches, train


def make_clip(profile: Profile) -> Path:
    """Train the small CLIP from the caption corpus (about 5 minutes), or take a checkpoint.

    Returns the folder of clip.pt, a state dict that `clip.load` reads. Raises FileNotFoundError
    when the checkpoint is not on disk.
    """
    device = device_of(profile)

    def make(folder: Path) -> None:
        if profile.clip_checkpoint:
            clip_model.save_clip(
                clip_model.load_clip(find_clip(profile), device), folder / "clip.pt"
            )
            return
        settings = small_clip(profile)
        model = untrained_clip(profile)
        batches, advice = CaptionBatches(profile, settings.batch), "lower clip.batch"
        with resuming(folder, "CLIP from captions", settings.steps, device, advice) as how:
            history = train(model, batches=batches, **learning_of_clip(profile, model) | how)
        write_json(folder / "history.json", [step["loss"] for step in history])
        clip_model.save_clip(model, folder / "clip.pt")

    if profile.clip_checkpoint:
        read, inputs = [], {"checkpoint": digest_of_weights(profile, find_clip(profile))}
    else:
        read, inputs = ["clip", "data.captions", "data.size", "seed", "compute.full_precision"], {}
    read += ["clip_checkpoint"]
    return make_once(profile, "weights", "clip", make, settings=read, inputs=inputs)


def digest_of_weights(profile: Profile, path: Path) -> str:
    """What a file of weights holds, for a key; remembered beside the results."""
    return digest_of([path], profile.outputs / "digests" / "weights.json")


def find_clip(profile: Profile) -> Path:
    """The file of `clip_checkpoint`: a path, or a name such as ViT-B/32 among the weights."""
    name = profile.clip_checkpoint
    source = SOURCES.get(name)
    path = profile.weights / source.filename if source else ROOT / name
    if path.is_file():
        return path
    if source is None:
        near = did_you_mean(name, [n for n in clip_model.clip.available_models() if n in SOURCES])
        raise FileNotFoundError(
            f"CLIP's weights are not here: clip_checkpoint = {name!r} is no file {path}{near}"
        )
    raise FileNotFoundError(
        f"CLIP's weights are not here: {path}. Fetch them with clims download weights --data-root "
        f"{profile.weights.parent}, or put {source.url} there"
    )


def check_checkpoint(profile: Profile) -> None:
    """Raise FileNotFoundError where clip_checkpoint names neither a file nor a CLIP to download.

    A file may be absent, as a CLIP not downloaded yet: what needs none is made without (`missing`).
    """
    name = profile.clip_checkpoint
    if name and name not in SOURCES and not Path(name).suffix:
        find_clip(profile)


def missing(profile: Profile) -> dict[str, str]:
    """What this profile's run has to do without, and why: {"clip": ..., "grounds": ...}.

    Notebook cells tagged needs-clip or needs-grounds are then left out, their rows "not run here".
    """
    found = {}
    if profile.clip_checkpoint:
        try:
            find_clip(profile)
        except FileNotFoundError as error:
            found["clip"] = str(error)
    drawn = profile.data.source == "miniworld"
    if not drawn and not (profile.data_root / "grounds.txt").is_file():
        found["grounds"] = "only MiniWorld knows what lies under every pixel"
    return found


def runnable(profile: Profile, methods: Iterable[str]) -> list[str]:
    """Those of the methods that need nothing that is missing here."""
    without_clip = "clip" in missing(profile)
    return [m for m in methods if not (without_clip and needs_clip(profile, m))]


def finetune_clip(profile: Profile) -> Path:
    """Finetune CLIP on the class texts from image-level labels; returns the folder of clip.pt.

    With the loss "none", as in the improved release, it is CLIP as it was.
    """
    settings, source = profile.finetune, make_clip(profile)
    if settings.loss == "none":
        return source

    def make(folder: Path) -> None:
        device = device_of(profile)
        model = clip_model.load_clip(source / "clip.pt", device)
        batches_of = hinge_pictures if settings.loss == "hinge" else labelled_pictures
        batches, advice = batches_of(profile, model), "lower finetune.batch"
        with resuming(folder, "finetuning CLIP", settings.steps, device, advice) as how:
            history = train(model, batches=batches, **learning_of_finetuning(profile, model) | how)
        write_json(folder / "history.json", [step["loss"] for step in history])
        clip_model.save_clip(model, folder / "clip.pt")

    inputs = {
        "clip": source,
        "images": split_folder(profile, "train"),
        "labels": split_folder(profile, "train", "labels"),
    }
    of_loss = {
        "hinge": ["finetune.margin", "finetune.replay", "data.captions", "clip.cutouts"],
        "contrastive": [
            *(f"finetune.{name}" for name in ("texts", "directions", "correct_shared", "crop")),
            "finetune.weight_decay",
            *(["augment.resize", "augment.resize_of"] if settings.crop else []),
        ],
    }
    read = [f"finetune.{name}" for name in ("loss", "batch", "steps", "lr")]
    read += ["seed", "data.classes", "prompts", "compute.full_precision", *of_loss[settings.loss]]
    return make_once(profile, "weights", "clip_finetuned", make, settings=read, inputs=inputs)


def strong_finetuning(profile: Profile) -> Profile:
    """A profile whose CLIP is finetuned contrastively, too strongly: notebook 01 compares them."""
    steps = min(100, profile.finetune.steps)
    strong = replace(profile.finetune, loss="contrastive", lr=2e-3, steps=steps, batch=32)
    return replace(profile, finetune=strong)


def texts_of(profile: Profile) -> list[str]:
    """One text a class: the profile's words in its template."""
    words = prompts.class_words(profile.data.classes, profile.prompts.words)
    return prompts.class_texts(words, profile.prompts.template)


def learning_of_finetuning(profile: Profile, model: CLIP) -> dict[str, Any]:
    """How CLIP is finetuned: what `training.train` is handed besides batches.

    "hinge", the careful one: the text tower alone, by Adam. "contrastive", the published one: both
    towers, by SGD with a cosine.
    """
    settings = profile.finetune
    schedule: LRScheduler | None = None
    if settings.loss == "hinge":
        model.requires_grad_(False)
        tower = [p.requires_grad_(True) for p in finetune.text_parameters(model)]
        optimiser: Optimizer = torch.optim.Adam(tower, lr=settings.lr, fused=True)
        loss = finetune.hinge_training_loss(texts_of(profile), settings.margin)
    else:
        both = model.requires_grad_(True).parameters()
        optimiser = torch.optim.SGD(
            both, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
        loss = finetune.label_training_loss(settings.correct_shared, settings.directions)
    return {
        "loss": loss,
        "steps": settings.steps,
        "optimiser": optimiser,
        "schedule": schedule,
        "amp": not profile.compute.full_precision,
        "frozen_norm": model,
    }


def hinge_pictures(profile: Profile, model: CLIP) -> Batches:
    """What a step of the careful finetuning sees: pictures as the model encodes them, their labels,
    pictures and captions to replay."""
    settings = profile.finetune
    pictures, labels, _ = read_split(profile, "train")
    replay = CaptionBatches(profile, settings.replay, salt=1)
    seen = finetune.encode_pictures(model, pictures, not profile.compute.full_precision)
    return finetune.hinge_batches(seen, labels, settings.batch, profile.seed, replay)


def labelled_pictures(profile: Profile, model: CLIP) -> Batches:
    """What a step of the published finetuning sees: pictures, or crops of them that are cut on the
    model's device, and a text of one of their labels or of all."""
    settings = profile.finetune
    words = prompts.class_words(profile.data.classes, profile.prompts.words)

    crops = None
    if settings.crop:
        how = profile.augment
        sizes = read_sizes(profile, "train")
        there = model.positional_embedding.device
        crops = finetune.Crops(sizes, settings.crop, how.resize, how.resize_of, there)

    def sentence(present: Tensor) -> str:
        names = [words[k] for k in present.nonzero()[:, 0].tolist()]
        return prompts.label_sentence(names, profile.prompts.template)

    return finetune.label_batches(
        *read_split(profile, "train")[:2],
        texts_of(profile),
        settings.batch,
        profile.seed,
        sentence=sentence if settings.texts == "all_labels" else None,
        crops=crops,
    )


def background_texts_of(profile: Profile) -> list[list[str]]:
    """The background texts of every class. Raises ValueError where the profile's do not fit it."""
    form, template = profile.losses, profile.prompts.template
    table = prompts.parse_background(form.background)
    return prompts.background_texts(profile.data.classes, table, template, form.every_class)


def clip_texts(profile: Profile, model: CLIP) -> tuple[Tensor, Tensor]:
    """Class texts (K, D) and background texts (K, L, D), encoded once; NaN fills short lists up."""
    texts = background_texts_of(profile)
    with torch.no_grad():
        said = clip_model.encode_texts(model, texts_of(profile))
        rows = [clip_model.encode_texts(model, some) if some else said[:0] for some in texts]
        return said, prompts.stack_ragged(rows)
