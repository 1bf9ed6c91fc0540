"""Masks of networks that are told no labels: semi-supervised ones, and DeepLab."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from tqdm.auto import tqdm

from clims_lib.config import Profile
from clims_lib.data.splits import open_split, read_images, read_sizes, split_folder
from clims_lib.data.voc import write_mask
from clims_lib.stage import make_once
from clims_lib.stages.fully_supervised import deeplab_predictor, train_deeplab
from clims_lib.stages.methods import trainer_of
from clims_lib.stages.semi_supervised import cct_predictor, train_cct

Predict = Callable[[Tensor], Tensor]  # pictures uint8 (B, 3, S, S) -> masks uint8 (B, S, S)


def train_network(profile: Profile, name: str) -> Path:
    """Train a segmentation network, one of `methods.trainers`; returns its folder of weights."""
    if trainer_of(profile, name).section == "deeplab":
        return train_deeplab(profile)
    return train_cct(profile, name)


PREDICTORS: dict[str, Callable[[Profile, str], Predict]] = {
    "deeplab": deeplab_predictor,
    "cct": cct_predictor,
}


def predictor(profile: Profile, name: str) -> Predict:
    """A trained segmentation network: pictures uint8 (B, 3, S, S) -> masks uint8 (B, S, S)."""
    return PREDICTORS[trainer_of(profile, name).section](profile, name)


def make_segmentations(profile: Profile, name: str, split: str) -> Path:
    """The folder of a segmentation network's masks of a split, which it is told no labels of.

    One palette <picture>.png each, of its own size: what `clims submission` packs. An interrupted
    run goes on with the pictures that it lacks.
    """
    section = trainer_of(profile, name).section

    def make(folder: Path) -> None:
        names = open_split(profile, split, labels=False).names
        images, sizes = read_images(profile, split), read_sizes(profile, split).tolist()
        todo = [i for i, name in enumerate(names) if not (folder / f"{name}.png").is_file()]
        if not todo:
            return
        predict, batch = PREDICTORS[section](profile, name), profile.inference.batch
        title = f"{name} on {split}"
        for start in tqdm(range(0, len(todo), batch), title, leave=False, disable=len(todo) < 500):
            chunk = todo[start : start + batch]
            for i, mask in zip(chunk, predict(images[chunk]), strict=True):
                height, width = sizes[i]
                write_mask(folder / f"{names[i]}.png", mask[:height, :width].numpy())

    return make_once(
        profile,
        "segmentations",
        f"{name}_{split}",
        make,
        settings=["compute.full_precision", *(["deeplab.scales"] if section == "deeplab" else [])],
        inputs={"weights": train_network(profile, name), "images": split_folder(profile, split)},
        code=[PREDICTORS[section]],
    )
