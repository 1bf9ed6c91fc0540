"""CCT's network: one encoder, the main decoder, and an auxiliary one for each perturbation.

Section 3.2 of Ouali et al., CVPR 2020. B pictures of H x W pixels, features z of C channels at
h x w = H/stride x W/stride, L = K + 1 labels with the background as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from clims_lib.config import did_you_mean
from clims_lib.perturbations import OPTIONS, PERTURBATIONS, contours_of

ALIVE = 2.0  # where label scores start: five deviations above 0; larger ones lose digits in bf16


class PyramidPooling(nn.Module):
    """Give every position a summary of its surroundings at four scales (Zhao et al., CVPR 2017).

    (B, channels, h, w) -> (B, out_channels, h, w). Raises ValueError for one picture in training:
    the coarsest summary is one value a picture, too few for batch normalisation.
    """

    def __init__(self, channels: int, out_channels: int, bins: Sequence[int] = (1, 2, 3, 6)):
        super().__init__()
        self.summaries = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), *_conv(channels, out_channels, 1))
            for size in bins
        )
        self.mix = _conv(channels + len(bins) * out_channels, out_channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            raise ValueError("training needs at least two pictures in a batch (normalisation)")
        return self.mix(torch.cat([x] + [_resize(s(x), x.shape[-2:]) for s in self.summaries], 1))


class Decoder(nn.Sequential):
    """Label scores from features: a 1x1 convolution, then pixel shuffles that each double the size.

    (B, channels, h, w) -> (B, num_labels, h * factor, w * factor). The shuffles start as plain
    enlargement, so there is no checkerboard. Three small changes to the published decoder: they
    start from the identity instead of a random mixture of labels; the last has no ReLU, which would
    keep scores from falling below 0; and all scores start above 0 (no softmax changes when all rise
    alike), because a label that the other ReLUs silence everywhere is never learnt: its IoU is 0.
    """

    def __init__(self, channels: int, num_labels: int, factor: int):
        first = nn.Conv2d(channels, num_labels, 1)
        nn.init.constant_(first.bias, ALIVE)  # type: ignore[arg-type]
        layers: list[nn.Module] = [first]
        for _ in range(int(math.log2(factor))):
            shuffle = nn.Conv2d(num_labels, 4 * num_labels, 1)
            shuffle.weight.data.copy_(enlarging(torch.eye(num_labels)[:, :, None, None]))
            nn.init.zeros_(shuffle.bias)  # type: ignore[arg-type]
            layers += [nn.ReLU(), shuffle, nn.PixelShuffle(2)]
        super().__init__(*layers)


class ReleasedDecoder(nn.Sequential):
    """The decoder as the authors released it: see `Decoder` for shapes and for what differs.

    Weights start at random, the same for the four quarters of a pixel, but their biases do not;
    the ReLU before each shuffle stands before the last one, too, so no score is ever below 0, and
    where all are 0 the background is the first of them.
    """

    def __init__(self, channels: int, num_labels: int, factor: int):
        first = nn.Conv2d(channels, num_labels, 1, bias=False)
        nn.init.kaiming_normal_(first.weight)  # type: ignore[arg-type]
        layers: list[nn.Module] = [first]
        for _ in range(int(math.log2(factor))):
            shuffle = nn.Conv2d(num_labels, 4 * num_labels, 1)
            start = nn.init.kaiming_normal_(torch.empty(num_labels, num_labels, 1, 1))
            shuffle.weight.data.copy_(enlarging(start))
            layers += [shuffle, nn.ReLU(), nn.PixelShuffle(2)]
        super().__init__(*layers)


def enlarging(weight: Tensor) -> Tensor:
    """(L, C, 1, 1) -> (4L, C, 1, 1): a weight after which PixelShuffle(2) enlarges its result.

    PixelShuffle(2) makes channels 4k .. 4k + 3 the four quarters of label k's pixels.
    """
    return weight.repeat_interleave(4, dim=0)


DECODERS: dict[str, Callable[[int, int, int], nn.Sequential]] = {
    "ours": Decoder,
    "released": ReleasedDecoder,
}


class CCT(nn.Module):
    """Encoder (backbone and pyramid pooling), main decoder, one auxiliary decoder a perturbation.

    `backbone` maps normalised pictures (B, 3, H, W) to (B, channels, h, w); decoders enlarge these
    by `factor`, and what is still missing to H x W is interpolated (published: nothing). Names in
    `perturbations` may repeat (released: perturbations.RELEASED_NUMBERS, 30 in all). Published:
    stride and factor 8, 2048 channels, 512 feature channels. decoder: "ours" or "released"; see
    `Decoder`. options: of the perturbations, by name, e.g. {"i_vat": {"xi": 1e-6}}; what differs in
    the release is in perturbations.RELEASED. Raises ValueError for unknown perturbations, options
    or decoders, factors not powers of two.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_labels: int,
        feature_channels: int,
        perturbations: Sequence[str] = (),
        factor: int = 4,
        decoder: str = "ours",
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        super().__init__()
        unknown = sorted(set(perturbations) - set(PERTURBATIONS))
        if unknown:
            raise ValueError(f"unknown perturbations {unknown}; choose from {list(PERTURBATIONS)}")
        if factor < 1 or factor & (factor - 1):
            raise ValueError(f"factor is {factor}, but must be a power of two: shuffles double")
        if num_labels < 2:
            raise ValueError(f"num_labels is {num_labels}: give K + 1, with the background")
        if decoder not in DECODERS:
            raise ValueError(f"decoder is {decoder!r}; choose one of {list(DECODERS)}")
        options = options or {}
        _check(options)
        self.num_labels, self.perturbations = num_labels, tuple(perturbations)
        self.options = {name: dict(options.get(name, {})) for name in perturbations}
        new = DECODERS[decoder]
        self.backbone = backbone
        self.pyramid = PyramidPooling(channels, feature_channels)
        self.main_decoder = new(feature_channels, num_labels, factor)
        self.auxiliary_decoders = nn.ModuleList(
            new(feature_channels, num_labels, factor) for _ in self.perturbations
        )

    def encode(self, images: Tensor) -> Tensor:
        """Normalised pictures (B, 3, H, W) -> features z (B, feature_channels, h, w)."""
        return self.pyramid(self.backbone(images))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pictures (B, 3, H, W) -> the main decoder's scores (B, L, H, W), float32."""
        return _resize(self.main_decoder(self.encode(images)).float(), images.shape[-2:])

    def auxiliary_scores(self, z: Tensor, prediction: Tensor, generator: Generator) -> list[Tensor]:
        """Scores (B, L, h * factor, w * factor) of every auxiliary decoder on its perturbed z."""
        options = dict(self.options)
        if options.get("guided_cutout", {}).get("rule") == "released":  # once for all six
            found = {"contours": contours_of(prediction)}
            options["guided_cutout"] = options["guided_cutout"] | found
        return [
            decoder(PERTURBATIONS[name](z, prediction, decoder, generator, **options[name])).float()
            for name, decoder in zip(self.perturbations, self.auxiliary_decoders, strict=True)
        ]

    def groups(self, lr: float, backbone_lr_factor: float = 0.1) -> list[dict]:
        """Parameters for an optimiser: the backbone learns at a tenth of the rate (as released)."""
        body = list(self.backbone.parameters())
        known = set(map(id, body))
        rest = [p for p in self.parameters() if id(p) not in known]
        return [{"params": rest, "lr": lr}, {"params": body, "lr": lr * backbone_lr_factor}]


def padded_scores(model: nn.Module, images: Tensor, multiple: int = 8) -> Tensor:
    """Scores of pictures (B, 3, H, W) of any size, which are mirrored at bottom and right first.

    As released: the network sees sides that are multiples of its stride, and what was added is cut
    off again. Sides must be longer than what is added to them.
    """
    height, width = images.shape[-2:]
    if not (height % multiple or width % multiple):
        return model(images)
    padded = F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="reflect")
    return model(padded)[..., :height, :width]


def _check(options: Mapping[str, Mapping[str, Any]]) -> None:
    for name, chosen in options.items():
        if name not in OPTIONS:
            raise ValueError(f"no perturbation is called {name!r}" + did_you_mean(name, OPTIONS))
        for option in chosen:
            if option not in OPTIONS[name]:
                advice = did_you_mean(option, OPTIONS[name])
                raise ValueError(f"{name} has no option {option!r}" + advice)


def _conv(channels: int, out_channels: int, size: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, out_channels, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
