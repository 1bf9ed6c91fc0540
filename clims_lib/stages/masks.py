"""From maps to masks on disk: a threshold, and a CRF if asked for; from networks, no labels given.

Thresholds are chosen on train pictures, never on val or test; the image-level labels are given to
every weakly supervised method, as in the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from clims_lib import metrics, seeds
from clims_lib.artifacts import artifact, key_in, read_json, write_json
from clims_lib.config import Profile
from clims_lib.data import voc
from clims_lib.data.splits import open_split, read_images, read_sizes, read_split, split_folder
from clims_lib.data.voc import write_mask
from clims_lib.metrics import IGNORE
from clims_lib.stages.maps import CLASSIC_MAPS, groups, refine
from clims_lib.stages.walk import looked_at, make_cams, network_of

Predict = Callable[[Tensor], Tensor]  # pictures uint8 (B, 3, S, S) -> masks uint8 (B, S, S)


def threshold_scores(profile: Profile, method: str, use_crf: bool = False) -> dict:
    """{how: mIoU at every threshold} on the first `chosen_on` train pictures.

    how: "max" for maps divided by their maxima; "none" as they are, for trained sigmoids.
    """
    settings = profile.crf if use_crf else profile.inference
    cams = make_cams(profile, method, "train", looked_at(profile))
    labels = len(profile.data.classes) + 1
    hows = ("max",) if network_of(method) in CLASSIC_MAPS else ("max", "none")

    def make(folder: Path) -> None:
        truth = read_split(profile, "train", masks=True)[2]
        counts = dict.fromkeys(hows, 0)
        for part in groups(profile, cams, "train", settings.chosen_on):
            height, width = part.images.shape[-2:]
            known = truth[part.some, :height, :width]
            for how in hows:
                maps = seeds.normalise_cam(part.cams, part.label, how)
                if use_crf:
                    found = part.labels_of(refine(profile, part.images, maps, settings.thresholds))
                    counts[how] = counts[how] + torch.stack(
                        [metrics.confusion(known, mask, labels) for mask in found.unbind(1)]
                    )
                else:
                    counts[how] = counts[how] + seeds.threshold_counts(
                        maps, known, settings.thresholds, part.classes, labels
                    )
        curve = seeds.threshold_curve
        write_json(
            folder / "scores.json",
            {
                how: [metrics.miou(c) for c in found] if use_crf else curve(found)
                for how, found in counts.items()
            },
        )

    recipe = {
        "cams": key_in(cams),
        "masks": key_in(split_folder(profile, "train", "masks")),
        "thresholds": settings.thresholds,
        "chosen_on": settings.chosen_on,
        "crf": profile.crf if use_crf else None,
    }
    name = name_of(method, use_crf)
    return read_json(artifact(profile.outputs / "thresholds", name, recipe, make) / "scores.json")


def name_of(method: str, use_crf: bool) -> str:
    """A row's method: "clims", or "clims_crf"."""
    return f"{method}_crf" if use_crf else method


def choose_threshold(profile: Profile, method: str, use_crf: bool = False) -> dict:
    """{"how", "threshold"} of the best of `threshold_scores`."""
    thresholds = (profile.crf if use_crf else profile.inference).thresholds
    scores = threshold_scores(profile, method, use_crf)
    how = max(scores, key=lambda h: max(scores[h]))
    return {"how": how, "threshold": thresholds[scores[how].index(max(scores[how]))]}


def make_pseudo_masks(profile: Profile, method: str, split: str, use_crf: bool = True) -> Path:
    """Segment a split from its image-level labels; returns the folder of <name>.png masks.

    An interrupted run goes on with the pictures that it lacks.
    """
    cams, choice = make_cams(profile, method, split), choose_threshold(profile, method, use_crf)

    def make(folder: Path) -> None:
        names = open_split(profile, split).names
        for part in groups(profile, cams, split):
            paths = [folder / f"{names[i]}.png" for i in part.some]
            if all(path.is_file() for path in paths):
                continue
            maps = seeds.normalise_cam(part.cams, part.label, choice["how"])
            if use_crf:
                masks = refine(profile, part.images, maps, [choice["threshold"]])[:, 0]
            else:
                masks = seeds.cam_to_mask(maps, choice["threshold"])
            for path, mask in zip(paths, part.labels_of(masks), strict=True):
                write_mask(path, mask.numpy())

    recipe = {"cams": key_in(cams), **choice, "crf": profile.crf if use_crf else None}
    name = f"{name_of(method, use_crf)}_{split}"
    return artifact(profile.outputs / "pseudo_masks", name, recipe, make)


def keep_segmentations(
    profile: Profile, name: str, split: str, load: Callable[[], Predict], weights: Path
) -> Path:
    """The artifact of a split's masks from load()'s function, which is told no labels.

    One palette <name>.png a picture, of its own size: what `clims_lib.data.submission` packs. An
    interrupted run goes on with the pictures that it lacks.
    """

    def make(folder: Path) -> None:
        names = open_split(profile, split, labels=False).names
        images, sizes = read_images(profile, split), read_sizes(profile, split).tolist()
        todo = [i for i, name in enumerate(names) if not (folder / f"{name}.png").is_file()]
        predict, batch = load(), profile.inference.batch
        for start in tqdm(
            range(0, len(todo), batch), f"{name} on {split}", leave=False, disable=len(todo) < 500
        ):
            chunk = todo[start : start + batch]
            for i, mask in zip(chunk, predict(images[chunk]), strict=True):
                height, width = sizes[i]
                write_mask(folder / f"{names[i]}.png", mask[:height, :width].numpy())

    recipe = {
        "weights": key_in(weights),
        "pictures": key_in(split_folder(profile, split)),
        "scales": profile.deeplab.scales,
    }
    return artifact(profile.outputs / "segmentations", f"{name}_{split}", recipe, make)


def read_masks(profile: Profile, folder: Path, split: str) -> Tensor:
    """The masks in a folder for a split's pictures: uint8 (N, S, S), 255 beyond each picture."""
    names, side = open_split(profile, split).names, profile.data.size
    masks = torch.full((len(names), side, side), IGNORE, dtype=torch.uint8)
    found = voc.read_mask_files(folder / f"{name}.png" for name in names)
    for canvas, mask in zip(masks, found, strict=True):
        canvas[: mask.shape[0], : mask.shape[1]] = torch.from_numpy(mask)
    return masks


def segment(profile: Profile, method: str, split: str, use_crf: bool = False) -> Tensor:
    """Masks uint8 (N, S, S) of a split's pictures, from their image-level labels."""
    return read_masks(profile, make_pseudo_masks(profile, method, split, use_crf), split)


def score(prediction: Tensor, truth: Tensor) -> float:
    """mIoU of a few masks, with as many labels as the larger of the two holds."""
    labels = int(max(prediction.max(), truth[truth != IGNORE].max())) + 1
    return metrics.miou(metrics.confusion(truth, prediction, labels))
