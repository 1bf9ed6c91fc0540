"""The CAM network: a backbone's features, a 1x1 head, and maps at several scales.

P_k = sigmoid(w_k^T Z): the head is applied at every place of the last features Z and there is no
global pooling (paper, section 3.2). Notebook 03 looks at its maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clims_lib.backbones import MEAN, STD, EfficientNetLite, ThinResNet


class CAMNet(nn.Module):
    """Features and one score map a class: (B, 3, H, W) in [0, 1] -> (B, K, h, w) scores.

    layers: blocks a stage, (3, 4, 6, 3) is ResNet-50; thin: divides every width; stride: 4, 8, 16
    or 32, pixels a map position (later stages are dilated instead of strided). backbone: "resnet",
    or "efficientnet_lite0", which has layers and widths of its own. Raises ValueError for others.
    """

    def __init__(
        self,
        num_classes: int,
        layers: Sequence[int],
        *,
        thin: int = 1,
        stride: int = 16,
        backbone: str = "resnet",
    ):
        super().__init__()
        if stride not in (4, 8, 16, 32):
            raise ValueError(f"stride must be 4, 8, 16 or 32, not {stride}")
        if backbone == "efficientnet_lite0":
            self.backbone = EfficientNetLite(stride)
        elif backbone == "resnet":
            self.backbone = ThinResNet(layers, thin, stride)
        else:
            raise ValueError(f"backbone must be resnet or efficientnet_lite0, not {backbone!r}")
        self.channels = self.backbone.channels[-1]
        self.head = nn.Conv2d(self.channels, num_classes, 1, bias=False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

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
        return self.head(self.features(images))


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
) -> Tensor:
    """Maps (B, K, H / stride, W / stride), averaged over scales and mirror images.

    images: (B, 3, H, W) in [0, 1]. activation: "relu" (the classic CAM) or "sigmoid" (CLIMS, in
    [0, 1]), applied before averaging. Raises ValueError for an unknown activation or a bad scale.
    """
    activations = {"relu": torch.relu, "sigmoid": torch.sigmoid}
    if activation not in activations:
        raise ValueError(f"activation must be one of {sorted(activations)}, not {activation!r}")
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be positive numbers, not {list(scales)}")
    size, total = images.shape[-2:], images.new_zeros(())
    for scale in scales:
        to = [max(1, round(side * scale)) for side in size]
        scaled = F.interpolate(images, to, mode="bilinear", align_corners=False)
        maps = activations[activation](model(scaled).float())
        if flip:
            maps = (maps + activations[activation](model(scaled.flip(-1)).float()).flip(-1)) / 2
        total = total + F.interpolate(
            maps, [side // stride for side in size], mode="bilinear", align_corners=False
        )
    return total / len(scales)
