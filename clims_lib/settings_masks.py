"""The sections of a profile from maps to masks: CRF, random walk, and who learns from the masks."""

from dataclasses import dataclass
from typing import Literal

from clims_lib.settings import check_range, check_thresholds


@dataclass(frozen=True)
class Inference:
    scales: tuple[float, ...]
    flip: bool
    seen: Literal["canvas", "picture"]
    rescale: Literal["bilinear", "pillow"]
    reduction: Literal["mean", "sum"]
    grid: int
    stride: int
    batch: int
    thresholds: tuple[float, ...]
    published_thresholds: tuple[float, ...]
    chosen_on: int

    def __post_init__(self) -> None:
        check_thresholds("inference.thresholds", self.thresholds)
        check_thresholds("inference.published_thresholds", self.published_thresholds, least=0)
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"inference.scales must be above 0, not {list(self.scales)}")


@dataclass(frozen=True)
class Crf:
    sharpness: float
    thresholds: tuple[float, ...]
    chosen_on: int
    bilateral_weight: float
    bilateral_sxy: float
    bilateral_srgb: float
    gaussian_weight: float
    gaussian_sxy: float
    iterations: int

    def __post_init__(self) -> None:
        check_thresholds("crf.thresholds", self.thresholds)


@dataclass(frozen=True)
class Walk:
    form: Literal["ours", "affinitynet", "irnet"]
    stride: int
    radius: float
    training_radius: int
    embedding: int
    pictures: int
    low: float
    high: float
    steps: int
    batch: int
    crop: int
    resize: tuple[float, ...]
    lr: float
    displacement_lr_factor: float
    weight_decay: float
    beta: float
    times: int
    normalise: Literal["max", "joint"]
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        check_range("walk.resize", self.resize)
        check_thresholds("walk.thresholds", self.thresholds, least=0)
        if self.form == "ours":
            return
        place, reach = self.place, self.training_radius if self.form == "irnet" else self.radius
        if self.radius != int(self.radius) or min(self.radius, reach) < 2:
            raise ValueError(
                f"walk.form = {self.form!r} counts radii in whole places from 2 on, not "
                f"{min(self.radius, reach)}"
            )
        if self.crop % place or self.crop // place <= 2 * (reach - 1):
            least = place * (2 * int(reach) - 1)
            raise ValueError(
                f"walk.crop must be a multiple of {place} pixels, the size of a place, and at "
                f"least {least} at a radius of {int(reach)} places, not {self.crop}"
            )

    @property
    def place(self) -> int:
        """Pixels, down and across, of the places that walk: IRNet's heads always have a quarter."""
        return 4 if self.form == "irnet" else self.stride


@dataclass(frozen=True)
class Pseudo:
    method: str
    crf: bool


@dataclass(frozen=True)
class DenseCrf:
    """Keywords of crf.dense_crf; no iterations: no CRF."""

    iterations: int
    bilateral_weight: float
    bilateral_sxy: float
    bilateral_srgb: float
    gaussian_weight: float
    gaussian_sxy: float


@dataclass(frozen=True)
class Deeplab:
    version: Literal[2, 3]
    start: Literal["cam", "imagenet", "random"]
    layers: tuple[int, ...]
    stride: int
    frozen_stages: int
    norms: Literal["train", "fixed"]
    width: int
    rates: tuple[int, ...]
    pyramid: tuple[float, ...]
    crop: int
    resize: tuple[float, ...]
    steps: int
    batch: int
    accumulate: int
    optimiser: Literal["adamw", "sgd", "momentum_sgd"]
    decay_every: int
    lr: float
    head_lr_factor: float
    weight_decay: float
    scales: tuple[float, ...]
    flip: bool
    test_size: Literal["canvas", "own"]
    crf: DenseCrf

    def __post_init__(self) -> None:
        check_range("deeplab.resize", self.resize)
        if not self.scales or min((*self.scales, *self.pyramid)) <= 0:
            raise ValueError(
                f"deeplab.scales and deeplab.pyramid must be above 0, not {list(self.scales)} and "
                f"{list(self.pyramid)}"
            )


@dataclass(frozen=True)
class Cct:
    steps: int
    start: Literal["cam", "imagenet", "random"]
    stride: int
    frozen_stages: int
    norms: Literal["train", "fixed"]
    feature_channels: int
    output_stride: int
    decoder: Literal["ours", "released"]
    crops: Literal["factor", "long_side"]
    crop: int
    resize: tuple[float, ...]
    base: int
    batch_labelled: int
    batch_weak: int
    optimiser: Literal["adamw", "sgd", "momentum_sgd"]
    lr: float
    backbone_lr_factor: float
    weight_decay: float
    perturbation_options: Literal["ours", "released"]
    vat_xi: float
    cutout_rule: Literal["ours", "released"]
    supervised_loss: Literal["ce", "ab_ce"]
    unsupervised_weight: float
    reduction: Literal["mean", "sum_labels"]
    ramp: float
    weak_weight_main: float
    weak_weight_auxiliary: float
    flip: bool
    test_size: Literal["canvas", "own"]
    auxiliary: dict[str, int]  # decoders of each of perturbations.PERTURBATIONS

    def __post_init__(self) -> None:
        check_range("cct.resize", self.resize)

    @property
    def perturbations(self) -> tuple[str, ...]:
        """One name an auxiliary decoder."""
        return tuple(name for name, count in self.auxiliary.items() for _ in range(count))
