"""DeepLabV3 (Chen et al., 2017) from torchvision's parts, on a CAM network's backbone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from clims_lib.cam import CAMNet


class DeepLab(nn.Module):
    """A CAM network's backbone, atrous spatial pyramid pooling, and a classifier of every place.

    (B, 3, H, W) in [0, 1] -> scores (B, K + 1, H, W). rates: dilations of the pyramid's branches.
    """

    def __init__(self, network: CAMNet, num_labels: int, width: int, rates: tuple[int, ...]):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.backbone, self.mean, self.std = network.backbone, network.mean, network.std
        self.head = nn.Sequential(
            ASPP(network.channels, list(rates), width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, num_labels, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        scores = self.head(self.backbone((images - self.mean) / self.std))
        return F.interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=False)
