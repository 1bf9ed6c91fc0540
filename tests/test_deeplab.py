"""DeepLabV2: its head by brute force, sizes and counts by hand, the release's recorded facts.

Then its stage, and the masks that it and CCT predict.
"""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import profile_of
from test_semi_supervised import FEW, VOC, asked_for
from torch import nn

from clims_lib.artifacts import load_tensors
from clims_lib.cam import CAMNet
from clims_lib.config import load_profile
from clims_lib.crf import dense_crf
from clims_lib.data.splits import read_split
from clims_lib.data.voc import read_mask
from clims_lib.deeplab import DeepLab, DeepLabV2, SummedDilations, all_scales_loss
from clims_lib.objectives import Counted
from clims_lib.optimisers import DECAYS, new_optimiser
from clims_lib.stages import fully_supervised, segmentations
from clims_lib.stages.fully_supervised import new_deeplab, train_deeplab
from clims_lib.stages.measures import measure
from clims_lib.stages.semi_supervised import load_cct, normalise
from clims_lib.training import train

NETWORK = json.loads((Path(__file__).parent / "golden" / "network.json").read_text())
FACTS = NETWORK["facts"]["segmentation (root release, DeepLabV2 ResNet-101, ImageNet start)"]
RATES = tuple(FACTS["atrous_rates"])


HALVES = slice(2), slice(2, 4)


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


def test_accumulated_batches_are_balanced_one_by_one():
    """As released: each of a step's two batches has a background and objects of its own."""
    images, masks = pictures(4), torch.zeros(4, 64, 64, dtype=torch.uint8)
    masks[0, :9], masks[3, :, 20:] = 1, 2
    expected, model = small().eval(), small()
    halves = [all_scales_loss()(expected, (images[s], None, masks[s]), 0.0)[0] for s in HALVES]
    (sum(halves) / 2).backward()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    history = train(
        model,
        all_scales_loss(),
        lambda start: iter([(images, torch.zeros(4, 3), masks)]),
        steps=1,
        optimiser=optimiser,
        accumulate=2,
        frozen_norm=model,
        amp=False,
    )
    assert history[0]["loss"] == pytest.approx(sum(halves).item() / 2)
    for a, b in zip(expected.head.parameters(), model.head.parameters(), strict=True):
        torch.testing.assert_close(b, a - a.grad)
    assert not isinstance(all_scales_loss(), Counted)  # pictures are counted, not pixels


def test_deeplab_v3_is_what_it_was():
    torch.manual_seed(0)
    model = DeepLab(CAMNet(3, (1, 1, 1, 1), thin=16, stride=8), 4, 8, (2, 4)).eval()
    assert model(pictures()).shape == (2, 4, 64, 64)


# ---- The stage


@pytest.mark.parametrize("name", VOC)
def test_vocs_settings_are_the_releases(name):
    deeplab = load_profile(name).deeplab
    known = {
        "crop": "crop_train",
        "batch": "batch",
        "accumulate": "gradient_accumulation",
        "steps": "iterations",
        "lr": "lr",
        "decay_every": "lr_update_every",
        "weight_decay": "weight_decay",
    }
    found = {theirs: getattr(deeplab, ours) for ours, theirs in known.items()}
    assert found == {theirs: FACTS[theirs] for theirs in found}
    assert deeplab.rates == RATES
    # the seven scales are the training pictures'
    assert list(deeplab.resize) == [min(FACTS["scales"]), max(FACTS["scales"])]
    crf, theirs = deeplab.crf, FACTS["crf"]
    assert (crf.iterations, crf.gaussian_sxy) == (theirs["iterations"], theirs["pos_xy_std"])
    assert (crf.gaussian_weight, crf.bilateral_weight) == (theirs["pos_w"], theirs["bi_w"])
    assert crf.bilateral_sxy == theirs["bi_xy_std"]
    assert crf.bilateral_srgb == pytest.approx(theirs["bi_rgb_std"] / 255, abs=1e-6)


@pytest.mark.parametrize("name", VOC)
def test_vocs_network_is_the_papers(name, resnet101):
    with torch.device("meta"):
        model = new_deeplab(load_profile(name))
    assert isinstance(model, DeepLabV2) and model.scales == resnet101.scales
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    assert shapes == {k: v.shape for k, v in resnet101.state_dict().items()}
    steps = [m.dilation for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert steps == [m.dilation for m in resnet101.modules() if isinstance(m, nn.Conv2d)]


def test_version_2_trains_as_released(small_voc, monkeypatch):
    profile = profile_of(small_voc, *FEW, "deeplab.steps=30000", "compute.optimiser=adamw")
    start = lambda: train_deeplab(profile, "deeplab_cam")  # noqa: E731
    asked = asked_for(monkeypatch, fully_supervised, start)
    groups = asked["optimiser"].param_groups
    assert [g["lr"] for g in groups] == pytest.approx([FACTS["lr"] * n for n in (1, 10, 20)])
    assert {(g["momentum"], g["nesterov"]) for g in groups} == {(FACTS["momentum"], False)}
    assert asked["accumulate"] == FACTS["gradient_accumulation"]
    assert asked["frozen_norm"] is asked["model"].backbone
    rates = []
    for _ in range(21):
        rates.append(groups[0]["lr"] / FACTS["lr"])
        asked["optimiser"].step()
        asked["schedule"].step()
    by_hand = [(1 - t / 30_000) ** FACTS["poly_power"] for t in (0, 10, 20)]
    assert rates == pytest.approx([by_hand[0]] * 10 + [by_hand[1]] * 10 + by_hand[2:])
    images, _, masks = next(iter(asked["batches"](0)))
    assert len(images) == 8 and images.shape[-1] == profile.deeplab.crop and masks.any()


def test_both_versions_learn_and_are_measured(small_voc):
    for version in (2, 3):
        profile = profile_of(small_voc, *FEW, f"deeplab.version={version}")
        (row,) = measure(profile, "deeplab_cam")
        assert row["crf"] and 0 <= row["miou"] <= 1
        weights = load_tensors(train_deeplab(profile, "deeplab_cam") / "weights.safetensors")
        fresh = new_deeplab(profile)
        start, norms = fresh.state_dict(), {n for n, m in fresh.backbone.named_modules()
                                            if isinstance(m, nn.BatchNorm2d)}  # fmt: skip
        assert weights.keys() == start.keys()
        moved = {name for name in weights if not torch.equal(weights[name], start[name])}
        assert any("head" in name for name in moved) and any("layer4" in name for name in moved)
        learnt = {name.removeprefix("backbone.").rpartition(".")[0] for name in moved} & norms
        assert bool(learnt) == (version == 3)  # version 2's are in no group
    plain = profile_of(small_voc, *FEW, "deeplab.crf.iterations=0")
    assert not measure(plain, "deeplab_cam")[0]["crf"]


def test_masks_at_a_pictures_own_size(small_voc):
    """One picture, its own pixels alone: network, softmax and CRF written out once more."""
    profile = profile_of(small_voc, *FEW, "compute.full_precision=true", "deeplab.crf.iterations=2")
    images = read_split(profile, "val")[0]
    folders = {
        name: segmentations.make_segmentations(profile, name, "val")
        for name in ("deeplab_cam", "supervised")
    }
    model, cct = new_deeplab(profile), load_cct(profile, "supervised")
    folder = train_deeplab(profile, "deeplab_cam")
    model.load_state_dict(load_tensors(folder / "weights.safetensors"))
    form = {"bilateral_weight": 4, "bilateral_sxy": 67, "bilateral_srgb": 0.011765}
    form |= {"gaussian_weight": 3, "gaussian_sxy": 1, "iterations": 2}
    for i, (height, width) in enumerate(((24, 32), (32, 20))):
        x = images[i : i + 1, :, :height, :width].float() / 255
        mirrored = torch.cat([x, x[..., width - 1 - width % 8 : width - 1].flip(-1)], -1)
        with torch.no_grad():
            energy = -model.eval()(x).softmax(1).clamp(min=1e-5).log()
            scores = cct(normalise(mirrored))[..., :width]
        expected = {
            "deeplab_cam": dense_crf(energy, x, **form).argmax(1)[0],
            "supervised": scores.argmax(1)[0],
        }
        for name, mask in expected.items():
            found = torch.from_numpy(read_mask(folders[name] / f"p{8 + i}.png"))
            assert (found == mask).float().mean() > 0.99 and found.shape == (height, width)


def test_pictures_of_one_size_go_together():
    sizes = [[3, 4], [4, 3], [3, 4], [3, 4], [4, 3], [9, 9]]
    chunks = list(segmentations.of_one_size([0, 1, 2, 3, 5], sizes, 2))
    assert chunks == [[0, 2], [3], [1], [5]]
    assert list(segmentations.of_one_size([], sizes, 2)) == []
