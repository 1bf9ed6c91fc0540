"""DeepLabV2: its head by brute force, sizes and counts by hand, the release's recorded facts."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from clims_lib.cam import CAMNet
from clims_lib.deeplab import DeepLab, DeepLabV2, SummedDilations, all_scales_loss
from clims_lib.training import DECAYS, new_optimiser

NETWORK = json.loads((Path(__file__).parent / "golden" / "network.json").read_text())
FACTS = NETWORK["facts"]["segmentation (root release, DeepLabV2 ResNet-101, ImageNet start)"]
RATES = tuple(FACTS["atrous_rates"])


def small(**more):
    torch.manual_seed(0)
    return DeepLabV2(CAMNet(3, (1, 1, 1, 1), thin=16, stride=8), 4, **more)


def pictures(count=2, size=64):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def resnet101():
    """The papers' network without memory: shapes and counts need none."""
    with torch.device("meta"):
        return DeepLabV2(CAMNet(20, (3, 4, 23, 3), stride=8), 21, RATES)


def test_the_head_is_a_sum_of_dilated_convolutions():
    """Every place, channel and tap added up one by one."""
    rates, (height, width) = (1, 2, 3), (7, 8)
    torch.manual_seed(0)
    head, z = SummedDilations(2, 3, rates).double(), torch.randn(1, 2, height, width).double()
    for convolution in head:
        nn.init.normal_(convolution.bias)
    found = head(z)
    for label, y, x in product(range(3), range(height), range(width)):
        total = 0.0
        for rate, convolution in zip(rates, head, strict=True):
            total += convolution.bias[label].item()
            for channel, i, j in product(range(2), range(3), range(3)):
                row, column = y + (i - 1) * rate, x + (j - 1) * rate
                if 0 <= row < height and 0 <= column < width:  # beyond: 0
                    weight = convolution.weight[label, channel, i, j]
                    total += (weight * z[0, channel, row, column]).item()
        assert found[0, label, y, x].item() == pytest.approx(total, abs=1e-12)


def test_the_head_starts_small_and_without_biases():
    head = SummedDilations(512, 21)
    assert tuple(c.dilation[0] for c in head) == RATES == tuple(c.padding[0] for c in head)
    assert all(not c.bias.any() and 0.0095 < c.weight.std() < 0.0105 for c in head)


def test_parameters_of_the_papers_network(resnet101):
    """A ResNet-101 without its classifier of 1,000, and 4 x 21 kernels of 3 x 3 x 2048."""
    published = torchvision.models.ResNet101_Weights.IMAGENET1K_V1.meta["num_params"]
    body = sum(p.numel() for p in resnet101.backbone.parameters())
    assert body == published - (2048 * 1000 + 1000) == 42_500_160
    head = sum(p.numel() for p in resnet101.head.parameters())
    assert head == 4 * (21 * 2048 * 9 + 21) == 1_548_372


def test_resnet101_takes_torchvisions_weights_key_for_key(resnet101):
    with torch.device("meta"):
        theirs = torchvision.models.resnet101()
    shapes = {k: v.shape for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    assert shapes == {k: v.shape for k, v in resnet101.backbone.state_dict().items()}


def test_strides_and_dilations(resnet101):
    """torchvision's: a stage's first block looks as far as the stage before it did."""
    backbone = resnet101.backbone
    found = [
        [(block.conv2.stride[0], block.conv2.dilation[0]) for block in stage]
        for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)
    ]
    assert found == [
        [(1, 1)] * 3,
        [(2, 1)] + [(1, 1)] * 3,
        [(1, 1)] + [(1, 2)] * 22,
        [(1, 2)] + [(1, 4)] * 2,
    ]


def test_sizes_at_the_released_crop(resnet101):
    size = FACTS["crop_train"]
    with torch.no_grad():
        scores = resnet101.all_scores(torch.empty(1, 3, size, size, device="meta"))
    eighths = [(side + 7) // 8 for side in (size, int(size * 0.5), int(size * 0.75), size)]
    assert [tuple(s.shape) for s in scores] == [(1, 21, n, n) for n in eighths]
    assert eighths == [41, 20, 30, 41]


def test_the_answer_is_the_largest_of_all_scales():
    model, images = small().eval(), pictures()
    x, largest = (images - model.mean) / model.std, None
    for scale in (1.0, 0.5, 0.75):
        to = [int(64 * scale)] * 2
        scores = model.head(model.backbone(F.interpolate(x, to, mode="bilinear")))
        scores = F.interpolate(scores, (8, 8), mode="bilinear")
        largest = scores if largest is None else torch.maximum(largest, scores)
    expected = F.interpolate(largest, (64, 64), mode="bilinear")
    torch.testing.assert_close(model(images), expected)
    alone = small(scales=()).eval()
    assert len(alone.all_scores(images)) == 1 and not torch.equal(alone(images), expected)


def test_groups_learn_at_one_ten_and_twenty_times(resnet101):
    groups = resnet101.groups(FACTS["lr"], FACTS["weight_decay"])
    assert [g["lr"] for g in groups] == pytest.approx([2.5e-4, 2.5e-3, 5e-3])
    assert [g["weight_decay"] for g in groups] == [5e-4, 5e-4, 0]
    # 1 + 33 x 3 convolutions and 4 projections; of the head 4 and 4; the norms' 208 in none
    assert [len(g["params"]) for g in groups] == [104, 4, 4]
    inside = {id(p) for g in groups for p in g["params"]}
    outside = [n for n, p in resnet101.named_parameters() if id(p) not in inside]
    assert len(outside) == 208 and all("bn" in n or "downsample.1" in n for n in outside)
    numbers = [sum(p.numel() for p in g["params"]) for g in groups]
    assert numbers == [42_500_160 - 2 * 52_672, 4 * 21 * 2048 * 9, 84]


class Given(nn.Module):
    """A network with scores of its own at two sizes, labels 0 to 2."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.scores = [torch.randn(1, 3, 4, 4), torch.randn(1, 3, 2, 2)]

    def all_scores(self, images):
        return self.scores


@pytest.mark.parametrize("balanced", (True, False))
def test_loss_by_hand(balanced):
    masks = torch.zeros(1, 8, 8, dtype=torch.uint8)
    masks[0, 5:, 5:], masks[0, :2, :2] = 2, 255
    network, total = Given(), 0.0
    for scores, step in zip(network.scores, (2, 4), strict=True):
        means = {"ground": [], "object": []}
        for y, x in product(range(8 // step), repeat=2):
            label = int(masks[0, y * step + step // 2, x * step + step // 2])  # a place's middle
            if label != 255:
                entropy = -scores[0, :, y, x].log_softmax(0)[label].item()
                means["object" if label else "ground"].append(entropy)
        every = [means["ground"], means["object"]] if balanced else [sum(means.values(), [])]
        total += sum(sum(part) / len(part) for part in every) / len(every)
    value, parts = all_scales_loss(balanced=balanced)(network, (pictures(1, 8), None, masks), 0.0)
    assert value.item() == parts["ce"].item() == pytest.approx(total, rel=1e-6)


def test_without_objects_there_is_a_loss_still():
    loss, batch = all_scales_loss(), (pictures(1, 8), None, torch.zeros(1, 8, 8))
    assert 0 < loss(Given(), batch, 0.0)[0] < 100
    with pytest.raises(ValueError, match="masks"):
        loss(Given(), (pictures(1, 8), None, None), 0.0)


def test_it_learns():
    model, images = small(), pictures(4)
    masks = torch.zeros(4, 64, 64, dtype=torch.uint8)
    for i, start in enumerate((0, 16, 32, 40)):  # something bright
        masks[i, :, start : start + 24] = 3
        images[i, :, :, start : start + 24] += 2
    optimiser = torch.optim.SGD(model.groups(1e-3, FACTS["weight_decay"]), momentum=0.9)
    values = []
    for _ in range(15):
        optimiser.zero_grad()
        value, _ = all_scales_loss()(model, (images, None, masks), 0.0)
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.75 * values[0]


def test_the_learning_rate_follows_every_tenth_step():
    every, power = FACTS["lr_update_every"], FACTS["poly_power"]
    factors = [DECAYS["momentum_sgd"](step, 30_000, every) for step in range(25)]
    by_hand = [1.0] * 10 + [(1 - 10 / 30_000) ** power] * 10 + [(1 - 20 / 30_000) ** power] * 5
    assert factors == pytest.approx(by_hand)
    assert DECAYS["momentum_sgd"](30_000, 30_000, every) == 0


def test_the_optimiser_is_plain_momentum():
    optimiser = new_optimiser("momentum_sgd", small().groups(1e-3, 5e-4), 1e-3, 5e-4)
    found = {(g["momentum"], g["nesterov"], g["weight_decay"]) for g in optimiser.param_groups}
    assert found == {(FACTS["momentum"], False, 5e-4), (FACTS["momentum"], False, 0.0)}


def test_deeplab_v3_is_what_it_was():
    torch.manual_seed(0)
    model = DeepLab(CAMNet(3, (1, 1, 1, 1), thin=16, stride=8), 4, 8, (2, 4)).eval()
    assert model(pictures()).shape == (2, 4, 64, 64)
