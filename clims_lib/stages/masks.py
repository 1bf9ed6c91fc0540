"""From maps to masks on disk: a threshold, and a CRF if asked for.

Thresholds are chosen on train pictures, never on val or test; the image-level labels are given to
every weakly supervised method, as in the papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from clims_lib import metrics, seeds
from clims_lib.artifacts import read_json, write_json
from clims_lib.config import Profile
from clims_lib.data.splits import (
    open_split,
    read_masks,
    read_split,
    split_folder,
    subset,
    subset_settings,
)
from clims_lib.data.voc import write_mask
from clims_lib.metrics import IGNORE
from clims_lib.stage import make_once
from clims_lib.stages.cams import made_from, make_cams
from clims_lib.stages.grouped import groups
from clims_lib.stages.maps import REFINING, looked_at, refine
from clims_lib.stages.methods import activation_of, row_of


def threshold_scores(profile: Profile, name: str, split: str = "") -> dict[str, list[float]]:
    """{how: mIoU at every threshold} of a row of maps on `chosen_on` train pictures.

    name: "clims", "clims_walk_crf". how, as in seeds.normalise_cam: "max", after a walk what
    walk.normalise says; "none", too, for trained sigmoids that nothing has divided yet. split: all
    pictures of this one instead, at inference.published_thresholds: how papers choose.
    """
    row, (setting, thresholds) = row_of(name), thresholds_of(profile, name)
    section, labels = "crf" if row.crf else "inference", len(profile.data.classes) + 1
    chosen_on, where = getattr(profile, section).chosen_on, split or "train"
    if split:
        chosen_on, setting = None, "inference.published_thresholds"
        thresholds = profile.inference.published_thresholds
    divided = profile.walk.normalise if row.walk else "max"
    as_it_is = activation_of(profile, row.method) == "sigmoid" and divided == "max"
    hows = (divided, "none") if as_it_is else (divided,)

    def make(folder: Path) -> None:
        cams = make_cams(profile, row.maps, where, None if split else looked_at(profile))
        truth = read_split(profile, where, masks=True)[2]
        counts = dict.fromkeys(hows, torch.tensor(0))
        for part in groups(profile, cams, where, subset(profile, where, chosen_on)):
            height, width = part.images.shape[-2:]
            known = truth[part.some, :height, :width]
            for how in hows:
                maps = seeds.normalise_cam(part.cams, part.label, how)
                if row.crf:
                    found = part.labels_of(refine(profile, part.images, maps, thresholds))
                    counts[how] = counts[how] + torch.stack(
                        [metrics.confusion(known, mask, labels) for mask in found.unbind(1)]
                    )
                else:
                    counts[how] = counts[how] + seeds.threshold_counts(
                        maps, known, thresholds, part.classes, labels
                    )
        scores = {
            how: [metrics.miou(c) for c in found] if row.crf else seeds.threshold_curve(found)
            for how, found in counts.items()
        }
        write_json(folder / "scores.json", scores)

    maps = made_from(profile, row.maps, where)
    maps["settings"] += [setting, *(REFINING * row.crf)]
    maps["settings"] += [] if split else [f"{section}.chosen_on"]
    maps["settings"] += subset_settings(profile, where, chosen_on)
    maps["inputs"] |= {"masks": split_folder(profile, where, "masks"), "normalised by": hows}
    title = f"{name}_{split}" if split else name
    folder = make_once(profile, "thresholds", title, make, **maps)
    return read_json(folder / "scores.json")


def thresholds_of(profile: Profile, name: str) -> tuple[str, tuple[float, ...]]:
    """(the setting, its value): the thresholds that a row of maps is tried with."""
    row = row_of(name)
    if row.walk and profile.walk.thresholds:
        return "walk.thresholds", profile.walk.thresholds
    if row.crf:
        return "crf.thresholds", profile.crf.thresholds
    return "inference.thresholds", profile.inference.thresholds


def choose_threshold(profile: Profile, name: str) -> dict:
    """{"how", "threshold"} of the best of `threshold_scores`."""
    thresholds, scores = thresholds_of(profile, name)[1], threshold_scores(profile, name)
    how = max(scores, key=lambda h: max(scores[h]))
    return {"how": how, "threshold": thresholds[scores[how].index(max(scores[how]))]}


def published_rule(profile: Profile, name: str) -> dict:
    """{"threshold", "miou"} of a row of maps on data.seeds_on, by the papers' rule: the best of
    inference.published_thresholds on the very pictures that are scored."""
    scores = threshold_scores(profile, name, profile.data.seeds_on)
    best = max(max(line) for line in scores.values())
    line = next(line for line in scores.values() if best in line)
    return {"threshold": profile.inference.published_thresholds[line.index(best)], "miou": best}


def plain_masks(
    profile: Profile, images: Tensor, cams: Tensor, thresholds: Sequence[float]
) -> Tensor:
    """Masks uint8 (B, T, H, W) of normalised maps (B, n, H, W) at each threshold, no CRF."""
    return torch.stack([seeds.cam_to_mask(cams, threshold) for threshold in thresholds], 1)


WITH_CRF = {False: plain_masks, True: refine}


def make_pseudo_masks(profile: Profile, name: str, split: str) -> Path:
    """Segment a split from its image-level labels; returns the folder of <picture>.png masks.

    name: the row, "clims_crf". An interrupted run goes on with the pictures that it lacks.
    """
    row, choice = row_of(name), choose_threshold(profile, name)

    def make(folder: Path) -> None:
        names, cams = open_split(profile, split).names, make_cams(profile, row.maps, split)
        for part in groups(profile, cams, split):
            paths = [folder / f"{names[i]}.png" for i in part.some]
            if all(path.is_file() for path in paths):
                continue
            maps = seeds.normalise_cam(part.cams, part.label, choice["how"])
            masks = WITH_CRF[row.crf](profile, part.images, maps, [choice["threshold"]])[:, 0]
            for path, mask in zip(paths, part.labels_of(masks), strict=True):
                write_mask(path, mask.numpy())

    maps = made_from(profile, row.maps, split)
    maps["settings"] += REFINING * row.crf
    maps["inputs"] |= choice
    maps["code"] += [WITH_CRF[row.crf]]
    return make_once(profile, "pseudo_masks", f"{name}_{split}", make, **maps)


def read_folder(profile: Profile, folder: Path, split: str) -> Tensor:
    """The masks in a folder for a split's pictures: uint8 (N, S, S), 255 beyond each picture."""
    names = open_split(profile, split).names
    return read_masks([folder / f"{name}.png" for name in names], profile.data.size)


def pseudo_masks(profile: Profile, name: str, split: str) -> Tensor:
    """Masks uint8 (N, S, S) of a split's pictures, from their image-level labels."""
    return read_folder(profile, make_pseudo_masks(profile, name, split), split)


def score(prediction: Tensor, truth: Tensor) -> float:
    """mIoU of a few masks, with as many labels as the larger of the two holds."""
    labels = int(max(prediction.max(), truth[truth != IGNORE].max())) + 1
    return metrics.miou(metrics.confusion(truth, prediction, labels))
