"""What affinities learn from: where a high and a low threshold of a network's maps agree.

No mask is read. Pixels that only the low threshold gives to an object are 255, unsure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clims_lib import crf
from clims_lib.config import Profile
from clims_lib.data.splits import open_split, read_masks, subset, subset_settings
from clims_lib.data.voc import write_mask
from clims_lib.devices import device_of
from clims_lib.metrics import IGNORE
from clims_lib.seeds import cam_to_mask, normalise_cam, sure_mask
from clims_lib.stage import make_once
from clims_lib.stages.grouped import Group, groups
from clims_lib.stages.maps import from_network, looked_at, network_cams, refine


def refined_maps(profile: Profile, part: Group) -> Tensor:
    """Sure labels uint8 (B, H, W) where the profile's CRF says so at walk.low and walk.high."""
    settings, maps = profile.walk, normalise_cam(part.cams, part.label, "max")
    low, high = refine(profile, part.images, maps, [settings.low, settings.high]).unbind(1)
    return sure_mask(part.labels_of(high), low)


def refined_masks(profile: Profile, part: Group) -> Tensor:
    """The same as released: masks first, then each picture's through a CRF of its own classes."""
    settings, device, found = profile.walk, device_of(profile), []
    cams = normalise_cam(part.cams, part.label, "max", 1e-5)
    for image, maps, label in zip(part.images, cams, part.label, strict=True):
        kept = label > 0
        if not kept.any():
            found.append(torch.zeros(image.shape[1:], dtype=torch.uint8))
            continue
        x, own = image[None].to(device).float() / 255, maps[kept].to(device)
        masks = torch.stack([cam_to_mask(own, t) for t in (settings.low, settings.high)])
        low, high = crf.refine_labels(x, masks[None], len(own) + 1)[0].cpu()
        names = torch.cat([torch.zeros(1), part.classes[kept]]).to(torch.uint8)
        found.append(sure_mask(names[high.long()], low))
    return torch.stack(found)


SURE: dict[str, Callable[[Profile, Group], Tensor]] = {
    "ours": refined_maps,
    "affinitynet": refined_masks,
    "irnet": refined_masks,
}


def sure_labels(profile: Profile, name: str, split: str, pictures: int) -> Tensor:
    """uint8 (pictures, S, S): what is sure of a network's maps of a split, 255 elsewhere.

    Of train those that `subset` takes, of other splits the first.
    """
    side, train, found = profile.data.size, split == "train", []
    whole = range(len(open_split(profile, split).names))
    chosen = subset(profile, split, pictures) if train else whole[:pictures]
    count = max(looked_at(profile), pictures) if train else None
    for part in groups(profile, network_cams(profile, name, split, count), split, chosen):
        sure = SURE[profile.walk.form](profile, part)
        beyond = (0, side - sure.shape[2], 0, side - sure.shape[1])
        found.append(F.pad(sure, beyond, value=IGNORE))
    return torch.cat(found)


def make_sure_labels(profile: Profile, name: str) -> Path:
    """The released forms' labels of `walk.pictures` train pictures, the folder of <picture>.png.

    An interrupted run goes on with the pictures that it lacks: thousands take hours.
    """
    pictures = profile.walk.pictures
    chosen = subset(profile, "train", pictures)

    def make(folder: Path) -> None:
        cams = network_cams(profile, name, "train", max(looked_at(profile), pictures))
        names = open_split(profile, "train").names
        for part in groups(profile, cams, "train", chosen):
            paths = [folder / f"{names[i]}.png" for i in part.some]
            if not all(path.is_file() for path in paths):
                for path, mask in zip(paths, refined_masks(profile, part), strict=True):
                    write_mask(path, mask.numpy())

    plain = from_network(profile, name, "train")
    read = ["walk.low", "walk.high", *subset_settings(profile, "train", pictures)]
    return make_once(
        profile,
        "pseudo_masks",
        f"{name}_sure_train",
        make,
        settings=[*plain["settings"], *read],
        inputs=plain["inputs"] | {"count": len(chosen)},
        code=plain["code"],
    )


def read_sure_labels(profile: Profile, name: str) -> Tensor:
    """`make_sure_labels`'s, uint8 (pictures, S, S), 255 beyond each picture."""
    folder, names = make_sure_labels(profile, name), open_split(profile, "train").names
    chosen = subset(profile, "train", profile.walk.pictures)
    return read_masks([folder / f"{names[i]}.png" for i in chosen], profile.data.size)
