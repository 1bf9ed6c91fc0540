"""The sections of a profile, one frozen dataclass each; profiles/mini.toml explains the values.

Those of data, CLIP and the CAM networks are here, those from maps to masks in settings_masks.py.

Field types that work: int, float, str, bool, Path, Literal, tuple[T, ...], dict[str, T] for keys of
one's own, other dataclasses, and `X | None` for what a profile may leave out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NoReturn


class FrozenDict(dict):
    """A dict that cannot change, so that a frozen dataclass that holds one has a hash."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type, tuple]:
        return FrozenDict, (dict(self),)  # copies and pickles are made at once, not key by key

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("settings do not change: dataclasses.replace makes others")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


def check_range(name: str, values: Sequence[float]) -> None:
    """Raise ValueError unless these are two numbers above 0, the lower one first."""
    if len(values) != 2 or not 0 < values[0] <= values[1]:
        raise ValueError(f"{name} is the lowest and the highest, both above 0, not {list(values)}")


def check_thresholds(name: str, values: Sequence[float], least: int = 1) -> None:
    """Raise ValueError unless the numbers rise and are at least so many."""
    if len(values) < least or any(a >= b for a, b in pairwise(values)):
        raise ValueError(f"{name} must be rising numbers, {least} at least, not {list(values)}")


@dataclass(frozen=True)
class Data:
    source: Literal["miniworld", "voc"]
    classes: tuple[str, ...]
    size: int
    train: int
    val: int
    test: int
    labelled: int
    captions: int
    train_list: str
    subsets: Literal["first", "drawn"]
    evaluated: tuple[str, ...]
    seeds_on: str
    studied: int

    def __post_init__(self) -> None:
        if not self.evaluated:
            raise ValueError("data.evaluated names no split; the last one has the headline numbers")


@dataclass(frozen=True)
class Cutouts:
    whole: float
    alone: float
    hole: float
    subset: float
    blobs: float
    parts: float
    blank: float
    dimmed: float
    blurred: float


@dataclass(frozen=True)
class Clip:
    """The small CLIP that is trained here; a profile with `clip_checkpoint` needs none."""

    layers: tuple[int, ...]
    width: int
    embedding: int
    text_width: int
    text_layers: int
    context: int
    batch: int
    steps: int
    lr: float
    cutouts: Cutouts


@dataclass(frozen=True)
class Finetune:
    loss: Literal["hinge", "contrastive", "none"]
    texts: Literal["one_label", "all_labels"]
    directions: Literal["mean", "sum"]
    correct_shared: bool
    crop: int
    margin: float
    replay: int
    batch: int
    steps: int
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Prompts:
    words: Literal["data_set", "improved"]
    template: str

    def __post_init__(self) -> None:
        if "{}" not in self.template or set("{}") & set(self.template.replace("{}", "", 1)):
            raise ValueError(
                f"prompts.template = {self.template!r} needs one {{}} where the class goes, as in "
                "'a photo of {}'"
            )


Reduction = Literal["image_mean", "pair_mean", "pair_sum"]


@dataclass(frozen=True)
class Losses:
    cbs_form: Literal["class_related", "thresholded"]
    cbs_threshold: float
    background: tuple[str, ...]
    every_class: bool
    otm_btm: Reduction
    cbs: Reduction
    clamped: tuple[Literal["otm", "btm", "cbs"], ...]
    align_corners: bool
    normalisation: Literal["clip", "imagenet"]
    weights: dict[str, float]  # of the terms in losses.TERMS; the others count nothing
    class_weights: dict[str, float]  # in OTM and BTM; the other classes weigh 1


Optimiser = Literal["adamw", "sgd", "released_sgd", "released_nesterov"]
Norms = Literal["train", "fixed", "statistics_only"]
HeadInit = Literal["uniform", "xavier", "kaiming", "normal"]


@dataclass(frozen=True)
class Compute:
    accumulate: int
    frozen_norm: bool
    full_precision: bool
    frozen_stages: int
    optimiser: Optimiser


@dataclass(frozen=True)
class Augment:
    crop: int
    resize: tuple[float, ...]
    resize_of: Literal["factor", "longer_side"]
    drop_last: bool

    def __post_init__(self) -> None:
        check_range("augment.resize", self.resize)


@dataclass(frozen=True)
class Cam:
    backbone: Literal["resnet", "efficientnet_lite0"]
    weights: str
    layers: tuple[int, ...]
    thin: int
    stride: int
    dilated: bool
    normalisation: Literal["imagenet", "clip"]
    norms: Norms
    head_init: HeadInit
    crop: int
    epochs: int
    longer_epochs: int
    batch: int
    lr: float
    head_lr_factor: float
    weight_decay: float
    area_weight: float


@dataclass(frozen=True)
class Puzzle:
    tiles: int
    alpha: float
    alpha_ramp: float
    rectified: bool
    optimiser: Optimiser
    normalisation: Literal["imagenet", "clip"]
    norms: Norms
    head_init: HeadInit
    crop: int
    epochs: int
    batch: int
    lr: float
    head_lr_factor: float
    weight_decay: float


@dataclass(frozen=True)
class Clims:
    maps: Literal["sigmoid", "relu"]
    head: Literal["linear", "bottleneck"]
    head_init: HeadInit
    norms: Norms
    crop: int
    epochs: int
    batch: int
    lr: float
    head_lr_factor: float
    weight_decay: float
    clip_norm: float
