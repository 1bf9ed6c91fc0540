"""CLIP's image tower as a backbone of maps: what it knows at every place, without its pooling.

CLIP's modified ResNet steps by 32 pixels, so a picture of 64 has four places. Trained, it can be
asked at every fourth pixel all the same, "à trous": where a layer would have stepped by 2, all
later ones take neighbours that are twice as far apart. At the places that the tower itself has,
the answer is its own.
"""

from __future__ import annotations

import torch.nn.functional as F
from clip.model import ModifiedResNet
from torch import Tensor, nn


class ClipTower(nn.Module):
    """CLIP-normalised pictures (B, 3, H, W) -> features after each of five stages.

    While it learns, of 32 pixels a place in the last one, as in CLIP; in eval mode of 4. visual: a
    CLIP's image tower, which becomes a part of this one and loses its attention pooling.
    """

    def __init__(self, visual: ModifiedResNet):
        super().__init__()
        visual.attnpool = nn.Identity()
        self.visual, reach = visual, 1
        blocks = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        self.channels = [visual.conv3.out_channels, *(b[-1].conv3.out_channels for b in blocks)]
        self._reaches: list[tuple[nn.Conv2d, int]] = []
        for stage in blocks:
            for block in stage:
                self._reaches.append((block.conv2, reach))
                if block.stride > 1:
                    # the last step looks back where the others look ahead: maps stay in place
                    ahead = stage is not visual.layer4
                    block.avgpool, block.downsample[0] = Halve(reach, ahead), Halve(reach, ahead)
                    reach *= 2

    def train(self, mode: bool = True) -> ClipTower:
        super().train(mode)
        for convolution, reach in self._reaches:
            apart = 1 if mode else reach
            convolution.dilation = convolution.padding = (apart, apart)
        return self

    def stages(self, x: Tensor) -> list[Tensor]:
        v = self.visual
        x = v.relu1(v.bn1(v.conv1(x)))
        x = v.relu2(v.bn2(v.conv2(x)))
        found = [v.relu3(v.bn3(v.conv3(x)))]
        x = v.avgpool(found[0])
        for stage in (v.layer1, v.layer2, v.layer3, v.layer4):
            x = stage(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)[-1]

    def parts(self) -> list[list[nn.Module]]:
        """The modules of each of `stages`."""
        v = self.visual
        stem = [v.conv1, v.bn1, v.conv2, v.bn2, v.conv3, v.bn3]
        return [stem, [v.layer1], [v.layer2], [v.layer3], [v.layer4]]


class Halve(nn.Module):
    """Means of 2 x 2 places. While it learns, half as many as there are, as nn.AvgPool2d(2) has it.

    In eval mode as many as there are: of each place and those `reach` further, or nearer if not
    `ahead`; beyond the picture its edge goes on.
    """

    def __init__(self, reach: int, ahead: bool = True):
        super().__init__()
        self.reach, self.ahead = reach, ahead

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.avg_pool2d(x, 2)
        reach = self.reach
        before, after = (0, reach) if self.ahead else (reach, 0)
        x = F.pad(x, (before, after, before, after), mode="replicate")
        x = x[..., :-reach, :] + x[..., reach:, :]
        return (x[..., :-reach] + x[..., reach:]) / 4
