"""The CAM network: a backbone's features, a 1x1 head, and maps at several scales.

P_k = sigmoid(w_k^T Z): the head is applied at every place of the last features Z and there is no
global pooling (paper, section 3.2). Notebook 03 looks at its maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import Bottleneck

from clims_lib.backbones import MEAN, STD, EfficientNetLite, ThinResNet

HEAD_INITS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "uniform": lambda weight: None,  # as torch made it
    "xavier": nn.init.xavier_uniform_,
    "kaiming": nn.init.kaiming_normal_,
    "normal": lambda weight: nn.init.normal_(weight, std=0.01),
}
HEADS, NORMS = ("linear", "bottleneck"), ("train", "fixed", "statistics_only")


class CAMNet(nn.Module):
    """Features and one score map a class: (B, 3, H, W) in [0, 1] -> (B, K, h, w) scores.

    layers: blocks a stage, (3, 4, 6, 3) is ResNet-50; thin: divides every width; stride: 4, 8, 16
    or 32, pixels a map position (later stages are dilated instead of strided, unless `dilated` is
    off). backbone: "resnet", or "efficientnet_lite0", which has layers and widths of its own, or a
    module with `channels`, `stages` and `parts` as those have.

    head: "linear", a 1x1 convolution, or the camera-ready "bottleneck": one more residual block
    with leaky ReLUs, then 1x1 to K + 1 channels, the first of which (background) stands in no loss
    and is not returned. head_init: how the head's convolutions start, one of HEAD_INITS; camera-
    ready: "xavier" for its baseline, then "normal".
    norms: the batch norms "train"; or are "fixed", always on their running statistics, while their
    weights and biases learn; or "statistics_only" move and the weights and biases stay as they are.
    mean, std: of the pictures' channels. Raises ValueError for other choices.
    """

    def __init__(
        self,
        num_classes: int,
        layers: Sequence[int],
        *,
        thin: int = 1,
        stride: int = 16,
        backbone: str | nn.Module = "resnet",
        dilated: bool = True,
        head: str = "linear",
        head_init: str = "uniform",
        norms: str = "train",
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ):
        super().__init__()
        if stride not in (4, 8, 16, 32):
            raise ValueError(f"stride must be 4, 8, 16 or 32, not {stride}")
        choices = {"head": (head, HEADS), "head_init": (head_init, HEAD_INITS)}
        for name, (given, known) in (choices | {"norms": (norms, NORMS)}).items():
            if given not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {given!r}")
        self.backbone: Any
        if isinstance(backbone, nn.Module):
            self.backbone = backbone
        elif backbone == "efficientnet_lite0":
            self.backbone = EfficientNetLite(stride)
        elif backbone == "resnet":
            self.backbone = ThinResNet(layers, thin, stride, dilated=dilated)
        else:
            raise ValueError(f"backbone must be resnet or efficientnet_lite0, not {backbone!r}")
        self.channels = self.backbone.channels[-1]
        self.num_classes, self.norms = num_classes, norms
        self.head = new_head(self.channels, num_classes, head, head_init)
        if norms == "statistics_only":
            for norm in self.batch_norms():
                norm.requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def batch_norms(self) -> list[nn.Module]:
        return [m for m in self.modules() if isinstance(m, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> CAMNet:
        super().train(mode)
        for norm in self.batch_norms() if self.norms == "fixed" else ():
            norm.eval()
        return self

    def stages(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> features after each of the backbone's stages, finest first."""
        return self.backbone.stages((images - self.mean) / self.std)

    def freeze(self, stages: int) -> None:
        """Let the first `stages` of the backbone keep their weights."""
        for part in self.backbone.parts()[:stages]:
            for module in part:
                module.requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> Z (B, C, h, w)."""
        return self.stages(images)[-1]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))[:, -self.num_classes :]


def new_head(channels: int, num_classes: int, head: str, head_init: str) -> nn.Module:
    """(B, channels, h, w) -> class scores: `head` and `head_init` of CAMNet."""
    if head == "linear":
        made: nn.Module = nn.Conv2d(channels, num_classes, 1, bias=False)
    else:
        block = Bottleneck(channels, channels // 4)
        block.relu = nn.LeakyReLU(0.01)  # type: ignore[assignment]
        made = nn.Sequential(block, nn.Conv2d(channels, num_classes + 1, 1, bias=False))
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            HEAD_INITS[head_init](module.weight)
    return made


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Move each batch norm into the convolution that stands before it; changes and returns `model`.

    In eval mode a batch norm is a fixed scale and shift of each channel, so the convolution's own
    weights can hold it: the same maps but for rounding, and sooner. For networks whose modules
    are listed in the order in which they run, as torchvision's ResNets and EfficientNets are.
    Raises ValueError when the model is in training mode.
    """
    if model.training:
        raise ValueError("batch norms still learn in training mode: call model.eval() first")
    for parent in list(model.modules()):
        before, convolution = "", None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
                setattr(parent, before, fuse_conv_bn_eval(convolution, child))
                setattr(parent, name, nn.Identity())
            before, convolution = name, child
    return model


@torch.no_grad()
def multi_scale_cam(
    model: nn.Module,
    images: Tensor,
    *,
    scales: Sequence[float],
    flip: bool,
    activation: str,
    stride: int = 1,
    rescale: str = "bilinear",
    reduction: str = "mean",
    grid: int = 1,
) -> Tensor:
    """Maps (B, K, H / stride, W / stride), averaged over scales and mirror images.

    images: (B, 3, H, W) in [0, 1]. activation: "relu" (the classic CAM) or "sigmoid" (CLIMS, in
    [0, 1]), applied before averaging. rescale: "bilinear", or the pictures through "pillow"'s
    bicubic filter. reduction: "mean", or "sum" over scales and mirror images. grid: the maps are
    stretched over sides rounded up to a multiple of it, and cropped.

    As released: "relu", "pillow", "sum", grid 4 at stride 4 and grid 16 at stride 1; then
    normalise_cam with epsilon 1e-5. Raises ValueError for an unknown choice or a bad scale.
    """
    activations = {"relu": torch.relu, "sigmoid": torch.sigmoid}
    rescales = {"bilinear": resize_bilinear, "pillow": resize_as_pillow}
    for name, given, known in (
        ("activation", activation, activations),
        ("rescale", rescale, rescales),
        ("reduction", reduction, ("mean", "sum")),
    ):
        if given not in known:
            raise ValueError(f"{name} must be one of {sorted(known)}, not {given!r}")
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be positive numbers, not {list(scales)}")
    size, total = images.shape[-2:], images.new_zeros(())
    for scale in scales:
        scaled = rescales[rescale](images, [max(1, round(side * scale)) for side in size])
        maps = activations[activation](model(scaled).float())
        if flip:
            maps = (maps + activations[activation](model(scaled.flip(-1)).float()).flip(-1)) / 2
        total = total + resize_bilinear(maps, [-(-side // grid) * grid // stride for side in size])
    height, width = (-(-side // stride) for side in size)
    total = total[..., :height, :width]
    return total / len(scales) if reduction == "mean" else total * (2 if flip else 1)


def resize_bilinear(images: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(images, list(size), mode="bilinear", align_corners=False)


def resize_as_pillow(images: Tensor, size: Sequence[int]) -> Tensor:
    """Pillow's bicubic filter on pictures (B, 3, H, W) in [0, 1], level for level, on any device.

    Pillow widens the filter where a picture shrinks, counts in steps of 2^-22, and brings first the
    rows, then the columns to whole levels of 0 to 255 (recent ones begin with what is cheaper).
    """
    levels = (images * 255).round().double()
    for side in (size[1], size[0]):  # along the last axis, which the two then exchange
        one = torch.eye(levels.shape[-1], dtype=torch.float64, device=images.device)[None, None]
        weights = F.interpolate(one, (one.shape[-1], side), mode="bicubic", antialias=True)[0, 0]
        weights = (weights * 2**22).round() / 2**22
        levels = (levels @ weights + 0.5).floor().clamp(0, 255).transpose(-1, -2)
    return (levels / 255).to(images.dtype)
