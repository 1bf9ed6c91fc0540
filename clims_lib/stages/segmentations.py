"""Masks of networks that are told no labels: semi-supervised ones, and DeepLab."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from tqdm.auto import tqdm

from clims_lib.config import Profile
from clims_lib.data.splits import open_split, read_images, read_sizes, split_folder
from clims_lib.data.voc import write_mask
from clims_lib.stage import make_once
from clims_lib.stages import fully_supervised, semi_supervised
from clims_lib.stages.methods import trainer_of

Predict = Callable[[Tensor], Tensor]  # pictures uint8 (B, 3, H, W) -> masks uint8 (B, H, W)


class Kind(NamedTuple):
    """How the networks of a section of the profile are trained and what they predict with.

    settings: those that masks depend on besides the ones that training reads.
    """

    train: Callable[[Profile, str], Path]
    predictor: Callable[[Profile, str], Predict]
    settings: Callable[[Profile], list[str]]


KINDS = {
    "deeplab": Kind(
        fully_supervised.train_deeplab,
        fully_supervised.deeplab_predictor,
        fully_supervised.deeplab_settings_at_test,
    ),
    "cct": Kind(
        semi_supervised.train_cct,
        semi_supervised.cct_predictor,
        semi_supervised.cct_settings_at_test,
    ),
}


def train_network(profile: Profile, name: str) -> Path:
    """Train a segmentation network, one of `methods.trainers`; returns its folder of weights."""
    return KINDS[trainer_of(profile, name).section].train(profile, name)


def predictor(profile: Profile, name: str) -> Predict:
    """A trained segmentation network: pictures uint8 (B, 3, H, W) -> masks uint8 (B, H, W)."""
    return KINDS[trainer_of(profile, name).section].predictor(profile, name)


def refined(profile: Profile, name: str) -> bool:
    """Whether a CRF follows a segmentation network."""
    return trainer_of(profile, name).section == "deeplab" and profile.deeplab.crf.iterations > 0


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
        own = getattr(profile, section).test_size == "own"
        shown = sizes if own else [list(images.shape[-2:])] * len(names)
        chunks = list(of_one_size(todo, shown, profile.inference.batch))
        predict, title = KINDS[section].predictor(profile, name), f"{name} on {split}"
        for chunk in tqdm(chunks, title, leave=False, disable=len(todo) < 500):
            height, width = shown[chunk[0]]
            masks = predict(images[chunk][..., :height, :width])
            for i, mask in zip(chunk, masks, strict=True):
                height, width = sizes[i]
                write_mask(folder / f"{names[i]}.png", mask[:height, :width].numpy())

    kind = KINDS[section]
    return make_once(
        profile,
        "segmentations",
        f"{name}_{split}",
        make,
        settings=["compute.full_precision", *kind.settings(profile)],
        inputs={"weights": kind.train(profile, name), "images": split_folder(profile, split)},
        code=[kind.predictor],
    )


def of_one_size(
    some: Sequence[int], sizes: Sequence[Sequence[int]], most: int
) -> Iterator[list[int]]:
    """Numbers of pictures, at most so many together and all of one size (height, width)."""
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i in some:
        found[tuple(sizes[i])].append(i)
    for alike in found.values():
        yield from (alike[start : start + most] for start in range(0, len(alike), most))
