"""The CAM network: a torchvision ResNet, a 1x1 head, and maps at several scales.

P_k = sigmoid(w_k^T Z): the head is applied at every place of the last features Z and there is no
global pooling (paper, section 3.2). Notebook 03 looks at its maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as torchvision's weights expect
STD = (0.229, 0.224, 0.225)


class ThinResNet(ResNet):
    """torchvision's ResNet with every stage `thin` times narrower: same code, small data."""

    def __init__(self, layers: Sequence[int], thin: int = 1, **settings):
        self.thin = thin
        super().__init__(Bottleneck, list(layers), **settings)

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        return super()._make_layer(block, planes // self.thin, blocks, stride, dilate)


class CAMNet(nn.Module):
    """ResNet features and one score map a class: (B, 3, H, W) in [0, 1] -> (B, K, h, w) scores.

    layers: blocks a stage, (3, 4, 6, 3) is ResNet-50; thin: divides every width; stride: 4, 8, 16
    or 32, pixels a map position (later stages are dilated instead of strided). Raises ValueError
    for other strides.
    """

    def __init__(self, num_classes: int, layers: Sequence[int], *, thin: int = 1, stride: int = 16):
        super().__init__()
        if stride not in (4, 8, 16, 32):
            raise ValueError(f"stride must be 4, 8, 16 or 32, not {stride}")
        dilate = [stride < 8, stride < 16, stride < 32]
        self.backbone = ThinResNet(layers, thin, replace_stride_with_dilation=dilate)
        channels = self.backbone.fc.in_features // thin
        self.backbone.fc = nn.Identity()
        self.channels = channels
        self.head = nn.Conv2d(channels, num_classes, 1, bias=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> Z (B, C, h, w)."""
        net = self.backbone
        x = (images - self.mean) / self.std
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        return net.layer4(net.layer3(net.layer2(net.layer1(x))))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


@torch.no_grad()
def multi_scale_cam(
    model: nn.Module, images: Tensor, *, scales: Sequence[float], flip: bool, activation: str
) -> Tensor:
    """Maps (B, K, H, W) at the pictures' own size, averaged over scales and mirror images.

    images: (B, 3, H, W) in [0, 1]. activation: "relu" (the classic CAM) or "sigmoid" (CLIMS, in
    [0, 1]), applied before averaging. Raises ValueError for an unknown activation or a bad scale.
    """
    activations = {"relu": torch.relu, "sigmoid": torch.sigmoid}
    if activation not in activations:
        raise ValueError(f"activation must be one of {sorted(activations)}, not {activation!r}")
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be positive numbers, not {list(scales)}")
    size, total, count = images.shape[-2:], 0, 0
    for scale in scales:
        to = [max(1, round(side * scale)) for side in size]
        scaled = F.interpolate(images, to, mode="bilinear", align_corners=False)
        for mirror in (False, True) if flip else (False,):
            maps = activations[activation](model(scaled.flip(-1) if mirror else scaled).float())
            maps = maps.flip(-1) if mirror else maps
            total = total + F.interpolate(maps, size, mode="bilinear", align_corners=False)
            count += 1
    return total / count
