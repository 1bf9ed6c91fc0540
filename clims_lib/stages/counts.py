"""What masks hold, picture by picture: from these whole numbers every score of a row is made, and
by the bootstrap its standard error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clims_lib import bootstrap, metrics
from clims_lib.artifacts import rounded, save_tensors, write_json
from clims_lib.bootstrap import LEAK
from clims_lib.config import Profile
from clims_lib.data.splits import contents, make_data, open_split, read_split, split_folder
from clims_lib.data.voc import VOCFolder, ground_names
from clims_lib.metrics import IGNORE
from clims_lib.stage import make_once
from clims_lib.stages.masks import read_folder

LEAKS = {"railroad->train": ("railroad", "train"), "water->boat": ("water", "boat")}
AROUND = ("train", "boat")  # the same cases on photographs


def leak_counts(
    profile: Profile, split: str, prediction: Tensor, truth: Tensor
) -> dict[str, Tensor]:
    """{pair: int64 (N, 2)} of masks (N, H, W): pixels of a ground that are labelled as what always
    stands on it, and pixels of that ground, in every picture.

    Nobody knows the grounds of photographs. There, "around->train" is what lies around trains
    (`around`), in the pictures with one.
    """
    root, classes = make_data(profile), list(profile.data.classes)
    if not (root / "grounds.txt").is_file():
        reach, names = profile.data.size // 8, [name for name in AROUND if name in classes]
        return {
            f"around->{name}": _around_leak(prediction, truth, classes.index(name) + 1, reach)
            for name in names
        }
    ground, names = ground_masks(profile, split), list(ground_names(root))
    found = {}
    for pair, (under, name) in LEAKS.items():
        of_ground, of_class = names.index(under) + 1, classes.index(name) + 1
        found[pair] = torch.tensor(
            [
                metrics.leak_rate(mask, there, of_ground, of_class)
                for mask, there in zip(prediction, ground, strict=True)
            ]
        )
    return found


def _around_leak(prediction: Tensor, truth: Tensor, k: int, reach: int) -> Tensor:
    found = []
    for mask, real in zip(prediction, truth, strict=True):
        ring = around((real == k).float()[None], reach)[0] * (real != IGNORE)
        found.append(metrics.leak_rate(mask, ring.to(torch.uint8), 1, k))
    return torch.tensor(found)


def around(thing: Tensor, reach: int) -> Tensor:
    """float (N, H, W): the pixels at most `reach` away from objects (N, H, W), without them."""
    wide = 2 * reach + 1
    wider = F.max_pool2d(thing[:, None], (1, wide), stride=1, padding=(0, reach))
    wider = F.max_pool2d(wider, (wide, 1), stride=1, padding=(reach, 0))
    return wider[:, 0] - thing


def ground_masks(profile: Profile, split: str, chosen: Tensor | None = None) -> Tensor:
    """uint8 (N, H, W): the ground's number under every pixel, 0 at objects; of all pictures or of
    the chosen ones."""
    folder = open_split(profile, split)
    some = range(len(folder)) if chosen is None else chosen.tolist()
    return torch.stack([torch.as_tensor(folder.ground(i)) for i in some])


def count_pictures(
    profile: Profile, split: str, prediction: Tensor, truth: Tensor
) -> dict[str, Tensor]:
    """int32 of N masks (N, H, W): "confusion" (N, L, L), rows = truth; "leak <pair>" (N, 2)."""
    labels = len(profile.data.classes) + 1
    confusion = [
        metrics.confusion(real, mask, labels) for real, mask in zip(truth, prediction, strict=True)
    ]
    found = {"confusion": torch.stack(confusion)}
    pairs = leak_counts(profile, split, prediction, truth)
    found |= {f"{LEAK}{pair}": counts for pair, counts in pairs.items()}
    return {name: counts.int() for name, counts in found.items()}


def count_masks(profile: Profile, name: str, masks: dict[str, Path]) -> Path:
    """The folder of what the masks {split: folder} are worth, whoever made them.

    rows.json has a row of results.json for every split, and <split>.safetensors the pictures'
    counts, in the order of the split's list.
    """
    labels = ["background", *profile.data.classes]

    def make(folder: Path) -> None:
        rows = []
        for split, where in masks.items():
            truth = read_split(profile, split, masks=True)[2][:]  # a part of train is in rows of it
            counts = count_pictures(profile, split, read_folder(profile, where, split), truth)
            save_tensors(folder / f"{split}.safetensors", counts)
            about = {"method": name, "split": split, "seed": profile.seed}
            rows.append(about | row_of_counts(counts, labels))
        write_json(folder / "rows.json", rounded(rows))

    truths: dict[str, Any] = {f"truth of {s}": split_folder(profile, s, "masks") for s in masks}
    if (make_data(profile) / "grounds.txt").is_file():
        truths |= {f"grounds of {s}": contents(profile, s, "grounds") for s in masks}
    return make_once(
        profile, "measured", name, make, settings=["seed"], inputs=truths | masks, code=[VOCFolder]
    )


def row_of_counts(counts: dict[str, Tensor], labels: list[str]) -> dict[str, Any]:
    """{"miou", "iou", "leak", "error"}: scores in fractions; error: the mIoU's standard error over
    the pictures."""
    pictures = len(counts["confusion"])
    once = torch.ones(1, pictures, dtype=torch.float64)
    miou, iou, leak = bootstrap.scores_of_draws(counts, labels, once)
    drawn = bootstrap.scores_of_draws(counts, labels, bootstrap.draw_pictures(pictures))
    return {
        "miou": float(miou),
        "iou": {label: float(score) for label, score in iou.items()},
        "leak": {pair: float(score) for pair, score in leak.items()},
        "error": bootstrap.standard_error(drawn.miou),
    }
