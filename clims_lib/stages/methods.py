"""The registry: what a row of the results is made by. To add a method, add an entry and its loss.

METHODS give maps from image-level labels (`full_masks`, the ceiling, cheats). TRAINERS are networks
that segment without labels at test time, learning from a few masks, from pseudo masks, or both.
Suffixes compose: "clims_walk_crf" is CLIMS, its maps carried further by a random walk, refined by
the CRF. Every list of methods, in notebooks as in tables, is derived from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from clims_lib import objectives
from clims_lib.config import Profile, did_you_mean
from clims_lib.losses import TERMS
from clims_lib.stage import value_of

WALK, CRF = "_walk", "_crf"


@dataclass(frozen=True)
class Method:
    """How a CAM network is trained, and what its maps are.

    loss: a factory of objectives.py; arguments: {its keyword: the setting that it gets}. section:
    the profile's with epochs, batch and rates. start: the method whose weights it starts from, ""
    for fresh ones. maps: what makes scores a map, "relu", "sigmoid", or the setting that says it.
    needs: "clip" (the loss is also given CLIP, its texts, the terms' forms and weights), "masks",
    "captions" (it is trained on CLIP's corpus in place of train: corpus.py). without: the term that
    an ablation leaves out. epochs: their setting. tower: the backbone in place of the profile's,
    "clip" for that of its image tower.
    """

    loss: Callable[..., objectives.Loss]
    section: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    start: str = ""
    maps: str = "relu"
    needs: tuple[str, ...] = ()
    without: str = ""
    epochs: str = ""
    tower: Literal["", "clip"] = ""


CLIMS = Method(
    objectives.clims_training_loss,
    "clims",
    {"align_corners": "losses.align_corners", "normalisation": "losses.normalisation"},
    start="cam",
    maps="clims.maps",
    needs=("clip",),
)
METHODS: dict[str, Method] = {
    "cam": Method(objectives.cam_loss, "cam"),
    "cam_longer": Method(objectives.cam_loss, "cam", epochs="cam.longer_epochs"),
    "puzzle_cam": Method(
        objectives.puzzle_loss,
        "puzzle",
        {
            "tiles": "puzzle.tiles",
            "alpha": "puzzle.alpha",
            "ramp": "puzzle.alpha_ramp",
            "rectified": "puzzle.rectified",
        },
    ),
    "cam_corpus": Method(objectives.cam_loss, "cam", needs=("captions",)),
    "cam_corpus_tower": Method(objectives.cam_loss, "cam", needs=("captions",), tower="clip"),
    "cam_corpus_train": Method(objectives.cam_loss, "cam", start="cam_corpus"),
    "full_masks": Method(objectives.full_mask_loss, "cam", maps="sigmoid", needs=("masks",)),
    "cam_area": Method(
        objectives.area_cam_loss,
        "clims",
        {"area_weight": "cam.area_weight"},
        start="cam",
        maps="clims.maps",
    ),
    "clims": CLIMS,
    **{f"clims_no_{term}": replace(CLIMS, without=term) for term in TERMS},
}


@dataclass(frozen=True)
class Trainer:
    """What a segmentation network learns from; those that are not pixel-labelled are `weak`.

    section: of the profile, also the network's kind. consistency: perturbed decoders must agree on
    weak pictures (CCT). pseudo: pseudo masks of the weak pictures; DeepLab has those of all. start:
    in place of the section's. longer: how many times the section's steps.
    """

    section: Literal["cct", "deeplab"]
    consistency: bool = False
    pseudo: bool = False
    start: Literal["", "random"] = ""
    longer: int = 1

    @property
    def control(self) -> bool:
        """Whether it only asks what start or steps are worth: in the committed table alone."""
        return bool(self.start) or self.longer > 1


# {} stands for the method whose maps the profile's pseudo masks come from.
TRAINERS: dict[str, Trainer] = {
    "supervised": Trainer("cct"),
    "supervised_scratch": Trainer("cct", start="random"),
    "pseudo_only": Trainer("cct", pseudo=True),
    "cct": Trainer("cct", consistency=True),
    "cct_longer": Trainer("cct", consistency=True, longer=4),
    "cct_{}": Trainer("cct", consistency=True, pseudo=True),
    "deeplab_{}": Trainer("deeplab", pseudo=True),
    "deeplab_{}_longer": Trainer("deeplab", pseudo=True, longer=4),
}


class Row(NamedTuple):
    """A row's name taken apart: "clims_walk_crf" -> ("clims", walk=True, crf=True)."""

    method: str
    walk: bool = False
    crf: bool = False

    @property
    def maps(self) -> str:
        """The name of the maps, without the CRF."""
        return self.method + WALK * self.walk


def row_of(name: str) -> Row:
    """Take a row of maps apart. Raises ValueError for an unknown method."""
    maps = name.removesuffix(CRF)
    method = maps.removesuffix(WALK)
    if method not in METHODS:
        raise ValueError(f"no method {method!r}{did_you_mean(method, METHODS)}")
    return Row(method, maps != method, name != maps)


def activation_of(profile: Profile, method: str) -> Literal["relu", "sigmoid"]:
    """What makes a method's scores a map."""
    maps = METHODS[method].maps
    return value_of(profile, maps) if "." in maps else maps  # type: ignore[return-value]


def pseudo_row(profile: Profile) -> str:
    """The row whose masks the profile's trainers learn from: "clims_crf"."""
    return profile.pseudo.method + CRF * profile.pseudo.crf


def trainers(profile: Profile) -> dict[str, Trainer]:
    """TRAINERS under the names they have with the profile's pseudo masks: "cct_clims"."""
    method = row_of(profile.pseudo.method).method
    return {name.format(method): trainer for name, trainer in TRAINERS.items()}


def trainer_of(profile: Profile, name: str) -> Trainer:
    """One of `trainers`. Raises ValueError for an unknown name."""
    known = trainers(profile)
    if name not in known:
        raise ValueError(f"no method {name!r}{did_you_mean(name, known)}")
    return known[name]


def as_trained(profile: Profile, name: str) -> Profile:
    """The profile with what a trainer changes in its section. Raises ValueError as `trainer_of`."""
    trainer = trainer_of(profile, name)
    own = getattr(profile, trainer.section)
    own = replace(own, start=trainer.start or own.start, steps=own.steps * trainer.longer)
    return replace(profile, **{trainer.section: own})


def table_rows(profile: Profile) -> list[str]:
    """The rows of the committed table, in its order; of pictures that no corpus shows without
    those that learn from one."""
    ours = row_of(profile.pseudo.method).method
    refined = [f"cam{CRF}", f"full_masks{CRF}", f"{ours}{CRF}", f"{ours}{WALK}"]
    refined += [f"{ours}{WALK}{CRF}"]
    shown = [name for name in METHODS if profile.data.source == "miniworld" or not of_corpus(name)]
    return list(dict.fromkeys([*shown, *refined, *trainers(profile)]))


def of_corpus(method: str) -> bool:
    """Whether a method learns from CLIP's captions, itself or where it starts."""
    entry = METHODS[method]
    return "captions" in entry.needs or bool(entry.start and of_corpus(entry.start))


def needs_clip(profile: Profile, name: str) -> bool:
    """Whether a row needs CLIP, itself or for the pseudo masks that it learns from."""
    known = trainers(profile)
    if name in ("clip", "clip_finetuned"):
        return True
    if name in known:
        return known[name].pseudo and needs_clip(profile, profile.pseudo.method)
    return "clip" in METHODS[row_of(name).method].needs
