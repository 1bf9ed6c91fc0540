"""What a method is worth: the rows of results.json. Notebook 07 lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clims_lib import clip_model, metrics, oracle
from clims_lib.artifacts import read_json, read_manifest, rounded, write_json
from clims_lib.config import Profile
from clims_lib.data.splits import contents, make_data, open_split, read_split, split_folder
from clims_lib.data.voc import VOCFolder, ground_names
from clims_lib.devices import device_of
from clims_lib.metrics import IGNORE
from clims_lib.objectives import NORMALISATIONS
from clims_lib.stage import make_once
from clims_lib.stages.cams import train_maps
from clims_lib.stages.clip import clip_texts, texts_of
from clims_lib.stages.criterion import loss_form, loss_weights
from clims_lib.stages.masks import choose_threshold, make_pseudo_masks, published_rule, read_folder
from clims_lib.stages.methods import row_of, trainers
from clims_lib.stages.segmentations import make_segmentations, refined, train_network

LEAKS = {"railroad->train": ("railroad", "train"), "water->boat": ("water", "boat")}
AROUND = ("train", "boat")  # the same cases on photographs


def leaks(profile: Profile, split: str, prediction: Tensor, truth: Tensor) -> dict[str, float]:
    """Leak rates: MiniWorld's grounds that are labelled as what always stands on them.

    Nobody knows the grounds of photographs. There, {"around->train": ...} is the share of what lies
    around trains (`around`) that is labelled train, in the pictures with one.
    """
    root, classes = make_data(profile), list(profile.data.classes)
    if not (root / "grounds.txt").is_file():
        reach, names = profile.data.size // 8, [name for name in AROUND if name in classes]
        pairs = {
            f"around->{name}": _around_leak(prediction, truth, classes.index(name) + 1, reach)
            for name in names
        }
    else:
        ground, names = ground_masks(profile, split), list(ground_names(root))
        pairs = {
            key: metrics.leak_rate(
                prediction, ground, names.index(under) + 1, classes.index(name) + 1
            )
            for key, (under, name) in LEAKS.items()
        }
    return {key: labelled / max(1, total) for key, (labelled, total) in pairs.items()}


def _around_leak(prediction: Tensor, truth: Tensor, k: int, reach: int) -> tuple[int, int]:
    labelled = total = 0
    for mask, real in zip(prediction, truth, strict=True):
        if bool((real == k).any()):
            ring = around((real == k).float()[None], reach)[0] * (real != IGNORE)
            found = metrics.leak_rate(mask, ring.to(torch.uint8), 1, k)
            labelled, total = labelled + found[0], total + found[1]
    return labelled, total


def around(thing: Tensor, reach: int) -> Tensor:
    """float (N, H, W): the pixels at most `reach` away from objects (N, H, W), without them."""
    wide = 2 * reach + 1
    wider = F.max_pool2d(thing[:, None], (1, wide), stride=1, padding=(0, reach))
    wider = F.max_pool2d(wider, (wide, 1), stride=1, padding=(reach, 0))
    return wider[:, 0] - thing


def scores_of(profile: Profile, name: str, split: str, prediction: Tensor, truth: Tensor) -> dict:
    """A row of results.json: what masks uint8 (N, S, S) of a split are worth."""
    labels = ["background", *profile.data.classes]
    counts = metrics.confusion(truth, prediction, len(labels))
    return {
        "method": name,
        "split": split,
        "seed": profile.seed,
        "miou": float(metrics.miou(counts)),
        "iou": {n: float(v) for n, v in zip(labels, metrics.iou(counts), strict=True)},
        "leak": leaks(profile, split, prediction, truth),
    }


def measure(profile: Profile, name: str) -> list[dict]:
    """Rows of results.json of one method on every evaluated split; of maps on data.seeds_on, too,
    which papers measure seeds and pseudo masks on, there with what `published_rule` says.

    name: of maps ("clims", "clims_walk_crf"; their thresholds come from train) or of a segmentation
    network ("cct_clims"). What is not there yet is trained. Raises ValueError for an unknown name.
    """
    splits, seeds_on = list(profile.data.evaluated), profile.data.seeds_on
    about: dict[str, Any]
    if name in trainers(profile):
        made, weights = make_segmentations, train_network(profile, name)
        about = {"threshold": None, "crf": refined(profile, name)}
    else:
        row = row_of(name)
        made, weights = make_pseudo_masks, train_maps(profile, row.maps)
        about = {"crf": row.crf, **choose_threshold(profile, name)}
        splits = [*([seeds_on] if seeds_on else []), *splits]
    masks = {split: made(profile, name, split) for split in splits}
    about["seconds"] = read_manifest(weights)["seconds"]
    if seeds_on:  # a run that is held against papers says by which recipe it was made
        about["profile"] = profile.name
    rows = [row | about for row in measure_masks(profile, name, masks)]
    published = bool(profile.inference.published_thresholds) and seeds_on in masks
    if published and not (row_of(name).walk or row_of(name).crf):
        rule = {seeds_on: {"published_rule": published_rule(profile, name)}}
        rows = [row | rule.get(row["split"], {}) for row in rows]
    return rows


def measure_masks(profile: Profile, name: str, masks: dict[str, Path]) -> list[dict]:
    """Rows of the masks {split: folder}, whoever made them."""

    def make(folder: Path) -> None:
        rows = []
        for split, where in masks.items():
            truth = read_split(profile, split, masks=True)[2][:]  # a part of train is in rows of it
            rows.append(scores_of(profile, name, split, read_folder(profile, where, split), truth))
        write_json(folder / "rows.json", rounded(rows))

    truths: dict[str, Any] = {f"truth of {s}": split_folder(profile, s, "masks") for s in masks}
    if (make_data(profile) / "grounds.txt").is_file():
        truths |= {f"grounds of {s}": contents(profile, s, "grounds") for s in masks}
    measured = make_once(
        profile, "measured", name, make, settings=["seed"], inputs=truths | masks, code=[VOCFolder]
    )
    return read_json(measured / "rows.json")


@torch.no_grad()
def zero_shot(profile: Profile, clip_folder: Path, name: str, split: str = "") -> dict:
    """Per-class accuracy of the class texts on the pictures that hold one class only.

    split: by default the one with the headline numbers.
    """
    split = split or profile.headline
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
    truth = labels[alone].argmax(1)
    accuracy = {
        c: float((guess[truth == k] == k).float().mean()) if bool((truth == k).any()) else None
        for k, c in enumerate(profile.data.classes)
    }
    return {"model": name, "split": split, "seed": profile.seed, "accuracy": accuracy}


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


def ground_masks(profile: Profile, split: str, chosen: Tensor | None = None) -> Tensor:
    """uint8 (N, H, W): the ground's number under every pixel, 0 at objects; of all pictures or of
    the chosen ones."""
    folder = open_split(profile, split)
    some = range(len(folder)) if chosen is None else chosen.tolist()
    return torch.stack([torch.as_tensor(folder.ground(i)) for i in some])


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
