"""What a method is worth: the rows of results.json. Notebook 07 lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clims_lib import clip_model, oracle
from clims_lib.artifacts import load_tensors, read_json, read_manifest
from clims_lib.config import Profile
from clims_lib.data.splits import make_data, read_split
from clims_lib.devices import device_of
from clims_lib.objectives import NORMALISATIONS
from clims_lib.stages.cams import train_maps
from clims_lib.stages.clip import clip_texts, texts_of
from clims_lib.stages.counts import around, count_masks, ground_masks
from clims_lib.stages.criterion import loss_form, loss_weights
from clims_lib.stages.masks import choose_threshold, make_pseudo_masks, published_rule
from clims_lib.stages.methods import row_of, trainers
from clims_lib.stages.segmentations import make_segmentations, refined, train_network


def measure(profile: Profile, name: str) -> list[dict]:
    """Rows of results.json of one method on every evaluated split; of maps on data.seeds_on, too,
    which papers measure seeds and pseudo masks on, there with what `published_rule` says.

    name: of maps ("clims", "clims_walk_crf"; their thresholds come from train) or of a segmentation
    network ("cct_clims"). What is not there yet is trained. Raises ValueError for an unknown name.
    """
    seeds_on, masks = profile.data.seeds_on, masks_of(profile, name)
    about: dict[str, Any]
    if name in trainers(profile):
        weights = train_network(profile, name)
        about = {"threshold": None, "crf": refined(profile, name)}
    else:
        row = row_of(name)
        weights = train_maps(profile, row.maps)
        about = {"crf": row.crf, **choose_threshold(profile, name)}
    about["seconds"] = read_manifest(weights)["seconds"]
    if seeds_on:  # a run that is held against papers says by which recipe it was made
        about["profile"] = profile.name
    rows = [row | about for row in measure_masks(profile, name, masks)]
    published = bool(profile.inference.published_thresholds) and seeds_on in masks
    if published and not (row_of(name).walk or row_of(name).crf):
        rule = {seeds_on: {"published_rule": published_rule(profile, name)}}
        rows = [row | rule.get(row["split"], {}) for row in rows]
    return rows


def masks_of(profile: Profile, name: str) -> dict[str, Path]:
    """{split: the folder of a row's masks} for all splits that it is measured on."""
    splits, seeds_on = list(profile.data.evaluated), profile.data.seeds_on
    if name in trainers(profile):
        return {split: make_segmentations(profile, name, split) for split in splits}
    splits = [*([seeds_on] if seeds_on else []), *splits]
    return {split: make_pseudo_masks(profile, name, split) for split in splits}


def measure_masks(profile: Profile, name: str, masks: dict[str, Path]) -> list[dict]:
    """Rows of the masks {split: folder}, whoever made them."""
    return read_json(count_masks(profile, name, masks) / "rows.json")


def picture_counts(profile: Profile, name: str) -> dict[str, Tensor]:
    """What a row's masks hold in every picture of the headline's split: `counts.count_pictures`."""
    folder = count_masks(profile, name, masks_of(profile, name))
    return load_tensors(folder / f"{profile.headline}.safetensors")


def zero_shot(profile: Profile, clip_folder: Path, name: str, split: str = "") -> dict:
    """Per-class accuracy of the class texts on the pictures that hold one class only.

    split: by default the one with the headline numbers.
    """
    split = split or profile.headline
    hits, truth = recognised(profile, clip_folder, split)
    accuracy = {
        c: float(hits[truth == k].float().mean()) if bool((truth == k).any()) else None
        for k, c in enumerate(profile.data.classes)
    }
    return {"model": name, "split": split, "seed": profile.seed, "accuracy": accuracy}


@torch.no_grad()
def recognised(profile: Profile, clip_folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """(hits bool (N,), classes int64 (N,)) of a split's N pictures: whether the text of a picture's
    class is the nearest of all class texts; class -1 and no hit where it holds not just one."""
    device = device_of(profile)
    model = clip_model.load_clip(clip_folder / "clip.pt", device)
    images, labels, _ = read_split(profile, split)
    alone = labels.sum(1) == 1
    encode = clip_model.image_encoder(model)
    texts = clip_model.encode_texts(model, texts_of(profile))
    guess = torch.cat(
        [
            (encode(clip_model.normalise_for_clip(part.to(device).float() / 255)) @ texts.T)
            .argmax(1)
            .cpu()
            for part in images[alone].split(256)
        ]
    )
    truth = torch.where(alone, labels.argmax(1), -1)
    hits = torch.zeros(len(truth), dtype=torch.bool)
    hits[alone] = guess == truth[alone]
    return hits, truth


def oracle_check(profile: Profile, clip_folder: Path, pictures: int = 80) -> list[dict]:
    """results.json's oracle rows on val: the CLIMS loss at seven masks of every class."""
    device = device_of(profile)
    model = clip_model.load_clip(clip_folder / "clip.pt", device)
    class_text, background_text = clip_texts(profile, model)
    images, labels, masks = read_split(profile, "val", masks=True)
    units, rows = NORMALISATIONS[profile.losses.normalisation], []
    for k, name in enumerate(profile.data.classes):
        some = labels[:, k].nonzero()[:pictures, 0]
        if not len(some):
            continue
        thing = (masks[some] == k + 1).float()
        losses = oracle.losses_at_masks(
            clip_model.image_encoder(model),
            clip_model.normalise_for_clip(images[some].to(device).float() / 255, *units),
            thing.to(device),
            home_of(profile, "val", some, thing).to(device),
            k,
            class_text,
            background_text,
            weights=loss_weights(profile),
            stride=profile.cam.stride,
            **loss_form(profile),
        )
        rows += [{"class": name, "mask": m, "seed": profile.seed} | v for m, v in losses.items()]
    return rows


def home_of(profile: Profile, split: str, chosen: Tensor, thing: Tensor) -> Tensor:
    """float (N, H, W): what comes with an object `thing` (N, H, W) of the pictures `chosen`.

    MiniWorld: the ground that most of these pictures stand on. Photographs: a ring around the
    object, an eighth of the picture wide.
    """
    if (make_data(profile) / "grounds.txt").is_file():
        return home_ground(ground_masks(profile, split, chosen))
    return around(thing, profile.data.size // 8)


def home_ground(ground: Tensor) -> Tensor:
    """float (N, H, W): the pixels of the ground that most of these pictures' ground is."""
    counts = torch.bincount(ground[ground > 0].long())
    return (ground == int(counts.argmax())).float()
