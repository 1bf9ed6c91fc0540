"""What of a profile does not fit together, all of it at once, before anything is made.

The loader knows names, types and ranges. Here is looked at what also depends on the method's pieces
or on files: terms and texts of the losses, first weights, CLIP's checkpoint, networks' strides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from clims_lib.config import Profile
from clims_lib.stages.clip import check_checkpoint, find_clip
from clims_lib.stages.criterion import check_losses
from clims_lib.stages.encoders import check_start
from clims_lib.stages.first_weights import fitting, imagenet_of
from clims_lib.stages.fully_supervised import new_deeplab
from clims_lib.stages.methods import needs_clip, row_of
from clims_lib.stages.networks import crops_of, new_network
from clims_lib.stages.semi_supervised import check_auxiliary, new_cct


def check(profile: Profile, segmenters: bool = True, row: str = "") -> None:
    """Raise ValueError with all of `misfits`, a line each."""
    if found := misfits(profile, segmenters, row):
        raise ValueError("\n  ".join([f"{profile.name} does not fit together:", *found]))


def misfits(profile: Profile, segmenters: bool = True, row: str = "") -> list[str]:
    """Why a run would stop, and what to choose instead; [] where all fits together.

    segmenters: look at CCT, DeepLab and their pseudo masks, too. row: what is to be made; the CLIP
    that it needs must be here. Other weights that are not downloaded yet are results.readiness's.
    """
    found: dict[str, None] = {}
    wanted = profile.clip_checkpoint and row and needs_clip(profile, row)
    for look in (*OF_MAPS, *OF_MASKS * segmenters, *(find_clip,) * bool(wanted)):
        try:
            look(profile)
        except (ValueError, FileNotFoundError) as error:
            found[str(error)] = None
    return list(found)


def _check_network(profile: Profile) -> None:
    with torch.device("meta"):  # shapes, no numbers
        blank = replace(profile, cam=replace(profile.cam, weights=""))
        backbone = new_network(blank).backbone
    if profile.cam.weights == "imagenet":
        imagenet_of(profile, "cam")
    elif profile.cam.weights:
        fitting(profile, backbone)


def _check_tiles(profile: Profile) -> None:
    crop, tiles = crops_of(profile, profile.puzzle.crop)["crop"], profile.puzzle.tiles
    if crop % tiles:
        raise ValueError(f"puzzle.tiles = {tiles} does not divide crops of {crop} pixels")


def _check_pseudo(profile: Profile) -> None:
    row = row_of(profile.pseudo.method)
    if row.crf:
        raise ValueError(
            f'pseudo.method = "{profile.pseudo.method}" names maps: say "{row.maps}" and '
            "pseudo.crf = true"
        )


def _check_segmenters(profile: Profile) -> None:
    with torch.device("meta"):
        new_cct(profile)
        new_deeplab(profile)


Look = Callable[[Profile], object]
OF_MAPS: tuple[Look, ...] = (check_losses, _check_network, check_checkpoint, _check_tiles)
OF_MASKS: tuple[Look, ...] = (
    _check_pseudo,
    check_auxiliary,
    lambda profile: check_start(profile, "cct"),
    lambda profile: check_start(profile, "deeplab"),
    _check_segmenters,
)
