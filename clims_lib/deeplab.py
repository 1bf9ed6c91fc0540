"""DeepLabV3 (Chen et al., 2017) and V2 (2016) on a CAM network's backbone.

V2 on a ResNet-101 (layers 3, 4, 23, 3; stride 8) is what the CLIMS papers train on pseudo masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from clims_lib.cam import CAMNet
from clims_lib.labels import IGNORE
from clims_lib.objectives import Batch, Loss, LossAndParts


class DeepLab(nn.Module):
    """V3: a backbone, atrous spatial pyramid pooling (torchvision's), a classifier of every place.

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


class SummedDilations(nn.ModuleList):
    """DeepLabV2's head: 3x3 convolutions that look 6, 12, 18 and 24 places far, added up.

    (B, channels, h, w) -> (B, num_labels, h, w).
    """

    def __init__(self, channels: int, num_labels: int, rates: Sequence[int] = (6, 12, 18, 24)):
        convolutions = [nn.Conv2d(channels, num_labels, 3, padding=r, dilation=r) for r in rates]
        for convolution in convolutions:
            nn.init.normal_(convolution.weight, std=0.01)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        super().__init__(convolutions)

    def forward(self, z: Tensor) -> Tensor:
        return torch.stack([convolution(z) for convolution in self]).sum(0)


class DeepLabV2(nn.Module):
    """V2: a backbone and `SummedDilations`, at several scales of the picture.

    (B, 3, H, W) in [0, 1] -> scores (B, K + 1, H, W), at each place the largest of all scales'.
    scales: those besides 1; (0.5, 0.75) as released; () for one scale. rates: see the head.
    """

    def __init__(
        self,
        network: CAMNet,
        num_labels: int,
        rates: Sequence[int] = (6, 12, 18, 24),
        scales: Sequence[float] = (0.5, 0.75),
    ):
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.backbone, self.mean, self.std = network.backbone, network.mean, network.std
        self.head, self.scales = SummedDilations(network.channels, num_labels, rates), tuple(scales)

    def all_scores(self, images: Tensor) -> list[Tensor]:
        """Scores of the picture, of each smaller one, and the largest of all, each at its stride.

        With stride 8: (B, K + 1, H / 8, W / 8), then smaller ones, then the first size again.
        """
        x = (images - self.mean) / self.std
        scores = [self.head(self.backbone(x))]
        for scale in self.scales:
            to = [int(side * scale) for side in x.shape[-2:]]
            smaller = F.interpolate(x, to, mode="bilinear", align_corners=False)
            scores.append(self.head(self.backbone(smaller)))
        size = scores[0].shape[-2:]
        same = [F.interpolate(s, size, mode="bilinear", align_corners=False) for s in scores[1:]]
        return [*scores, torch.stack([scores[0], *same]).amax(0)] if same else scores

    def forward(self, images: Tensor) -> Tensor:
        scores = self.all_scores(images)[-1]
        return F.interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=False)

    def groups(self, lr: float, weight_decay: float) -> list[dict]:
        """Parameters for an optimiser as released: the head 10 times as fast, its biases 20 times.

        Biases do not decay; the backbone's batch norms are in no group and never change (train with
        frozen_norm=model.backbone, so that their statistics do not, either).
        """
        convolutions = [m for m in self.backbone.modules() if isinstance(m, nn.Conv2d)]
        body = [p for m in convolutions for p in m.parameters()]
        weights, biases = ([getattr(m, kind) for m in self.head] for kind in ("weight", "bias"))
        return [
            {"params": body, "lr": lr, "weight_decay": weight_decay},
            {"params": weights, "lr": 10 * lr, "weight_decay": weight_decay},
            {"params": biases, "lr": 20 * lr, "weight_decay": 0.0},
        ]


def all_scales_loss(*, balanced: bool = True) -> Loss:
    """The sum, over DeepLabV2's `all_scores`, of the cross entropy with masks of the same size.

    Masks (B, H, W) are thinned out, 255 left out. balanced, as released: half the mean over the
    background, half that over objects, whatever their areas; else the mean over all pixels. Where
    one of the two is missing its half is 0.
    """

    def loss(model: nn.Module, batch: Batch, progress: float) -> LossAndParts:
        images, _, masks = batch
        if masks is None:
            raise ValueError("this loss compares with masks: hand them to the batches")
        total = images.new_zeros(())
        for scores in model.all_scores(images):  # type: ignore[operator]
            fit = F.interpolate(masks[:, None].float(), scores.shape[-2:], mode="nearest-exact")
            target = fit[:, 0].long()
            entropy = F.cross_entropy(scores.float(), target, ignore_index=IGNORE, reduction="none")
            known, ground = target != IGNORE, target == 0
            parts = (ground, known & ~ground) if balanced else (known,)
            means = [(entropy * part).sum() / part.sum().clamp(min=1) for part in parts]
            total = total + torch.stack(means).mean()
        return total, {"ce": total}

    return loss
