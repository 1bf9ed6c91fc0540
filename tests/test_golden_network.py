"""The released networks with weights by formula, against what the released code gave.

tests/golden/network.json says how weights and pictures come from an integer hash.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clims_lib.backbones import ThinResNet
from clims_lib.cam import CAMNet
from clims_lib.cct_network import PyramidPooling

GOLDEN = json.loads((Path(__file__).parent / "golden" / "network.json").read_text())
CASES = {case["name"]: case["outputs"] for case in GOLDEN["cases"]}
RESNET50 = (3, 4, 6, 3)
NETWORKS = {  # golden case: what we call it, and how many parts of the backbone are frozen
    "root_baseline_Net (net.resnet50_cam)": ({"norms": "fixed"}, 1),
    "root_CLIMS (net.resnet50_clims)": ({"norms": "train"}, 1),
    "camera_ready_baseline": ({"norms": "statistics_only", "head_init": "xavier"}, 0),
    "camera_ready_CLIMS": (
        {"norms": "statistics_only", "head": "bottleneck", "head_init": "normal"},
        0,
    ),
    "puzzle_classifier_mode_normal": ({"norms": "train", "head_init": "kaiming"}, 0),
    "puzzle_classifier_mode_fix": ({"norms": "fixed", "head_init": "kaiming"}, 0),
}
SCORES = "root_CLIMS (net.resnet50_clims)", "camera_ready_CLIMS"


def uniform(start, count):
    """u(k) of network.json for k = start .. start + count - 1, float64."""
    h = (np.arange(start, start + count, dtype=np.uint64) + 1) & 0xFFFFFFFF
    for _ in range(2):
        h = ((h ^ (h >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return torch.from_numpy(((h ^ (h >> 16)) / 2**32).astype(np.float64))


@pytest.fixture(scope="module")
def numbers():
    return uniform(0, 4096 * 512 * 9) - 0.5


@pytest.fixture(scope="module")
def pictures():
    return (2 * uniform(1_000_003, 2 * 3 * 65 * 97) - 1).view(2, 3, 65, 97)


def by_formula(model, numbers):
    """Give a model without memory (meta) the weights of network.json, float64."""
    model = model.double().to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.zero_()
    if hasattr(model, "std"):
        model.std.fill_(1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            w = module.weight.data
            scale = math.sqrt(24 / w[0].numel())
            w.copy_(numbers[: w.numel()].view_as(w) * scale)
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(0.5)
            module.bias.data.zero_()
            module.running_var.fill_(1)
    return model


def new(name, device="meta"):
    """One of NETWORKS that takes normalised pictures."""
    choices, frozen = NETWORKS[name]
    plain = {"dilated": False, "mean": (0, 0, 0), "std": (1, 1, 1)}
    with torch.device(device):
        net = CAMNet(20, RESNET50, **plain, **choices)
    net.freeze(frozen)
    return net


def check(found, expected, rtol=1e-5, atol=1e-7):
    """Compare a tensor with the statistics and the first and last 8 values of a golden one."""
    flat = found.detach().flatten()
    assert list(found.shape) == expected["shape"]
    statistics = [flat.mean(), flat.std(correction=0), flat.min(), flat.max()]
    known = [expected[name] for name in ("mean", "std_population", "min", "max")]
    for some, values in [
        (torch.stack(statistics), known),
        (flat[:8], expected["first_8"]),
        (flat[-8:], expected["last_8"]),
    ]:
        torch.testing.assert_close(some, torch.tensor(values).to(some), rtol=rtol, atol=atol)


def all_channels(net, x):
    """The head's scores, channel 0 of the bottleneck head included."""
    return net.head(net.features(x))


def slow(names):
    """PuzzleCAM's networks are the baselines' but for the head's start: not every time."""
    return [pytest.param(n, marks=pytest.mark.slow if "puzzle" in n else ()) for n in names]


@pytest.mark.parametrize("name", slow(NETWORKS))
def test_outputs_and_facts(name, numbers, pictures):
    net, known = by_formula(new(name), numbers), CASES[name]
    blocks = {f"layer{i}": getattr(net.backbone, f"layer{i}") for i in range(1, 5)}
    for layer, facts in known["blocks"].items():
        for block, fact in zip(blocks[layer], facts, strict=True):
            steps = block.downsample[0].stride[0] if block.downsample else None
            assert fact == {
                "conv2_stride": block.conv2.stride[0],
                "conv2_dilation": block.conv2.dilation[0],
                "conv2_padding": block.conv2.padding[0],
                "downsample_stride": steps,
            }
    for mode in ("eval_mode", "train_mode"):
        net.train(mode == "train_mode")
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        if mode == "train_mode":
            used = sum(m.training for m in norms)
            assert used == known["batch_norm_layers_using_batch_statistics_in_training"]
            assert len(norms) == known["batch_norm_layers"]
        with torch.no_grad():
            scores = all_channels(net, pictures)
        if name in SCORES:
            check(scores.sigmoid(), known["output"][mode])
        elif "puzzle" in name:
            check(scores, known["features"][mode])
            check(scores.mean((2, 3)), known["logits"][mode])
        else:
            check(scores.mean((2, 3)), known["output"][mode])
        for key in ("inference_true_raw_logits_eval", "with_cams_second_output_eval"):
            if key in known and mode == "eval_mode":
                check(scores, known[key])
                torch.testing.assert_close(net(pictures), scores[:, -20:])
    for value in ("mean", "var"):
        key = f"bn1_running_{value}_after_one_training_forward_first_4"
        if key in known:
            moved = getattr(net.backbone.bn1, f"running_{value}")[:4]
            torch.testing.assert_close(moved, torch.tensor(known[key]).to(moved), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_which_parameters_learn(name):
    net, known = new(name), CASES[name]
    learning = [p for p in net.parameters() if p.requires_grad]
    elements = sum(p.numel() for p in learning)
    unused = known["trainable_elements_not_in_optimiser"]
    assert sum(p.numel() for p in net.parameters()) == known["parameters_total"]
    assert elements == known["parameters_trainable"] - unused
    fixed = {n.removeprefix("backbone.") for n, p in net.named_parameters() if not p.requires_grad}
    norms = {n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    if known["batch_norm_layers_whose_affine_is_never_updated"]:
        assert len(fixed) == known["trainable_tensors_not_in_optimiser"] == 2 * len(norms)
    else:
        assert sorted(fixed) == known["frozen_parameters_requires_grad_false"]


def test_how_heads_start():
    known = CASES["camera_ready_CLIMS"]["init"]["cam_head_conv_weight_std"]
    head = new("camera_ready_CLIMS", "cpu").head
    stds = [m.weight.std().item() for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert stds == pytest.approx(known, rel=0.02) and len(stds) == 4
    slopes = [m.negative_slope for m in head.modules() if isinstance(m, nn.LeakyReLU)]
    assert slopes == [0.01] and not any(isinstance(m, nn.ReLU) for m in head.modules())
    bound = CASES["camera_ready_baseline"]["init"]["xavier_bound"]
    largest = new("camera_ready_baseline", "cpu").head.weight.abs().max().item()
    assert 0.999 * bound < largest <= bound


def test_maps_of_a_picture_and_its_mirror(numbers, pictures):
    known = CASES["root_CAM_inference (relu of logits, picture + flipped picture)"]["output"]
    net = by_formula(new("root_CLIMS (net.resnet50_clims)"), numbers).eval()
    with torch.no_grad():
        plain, mirrored = net(torch.stack([pictures[0], pictures[0].flip(-1)])).relu()
    check(plain + mirrored.flip(-1), known["eval_mode_input_is_pair_of_picture0_and_its_mirror"])


def test_cct_s_encoder(numbers, pictures):
    known = CASES["cct_encoder"]
    with torch.device("meta"):
        backbone = ThinResNet(RESNET50, stride=8, stem="3x3")
        encoder = nn.Sequential(backbone, PyramidPooling(2048, 512))
    encoder = by_formula(encoder, numbers)
    for part, elements in zip(encoder, known["optimiser_groups_element_counts"], strict=True):
        assert sum(p.numel() for p in part.parameters()) == elements
    for mode in ("eval_mode", "train_mode"):
        encoder.train(mode == "train_mode")
        with torch.no_grad():
            check(encoder(pictures), known["output"][mode])


@pytest.mark.parametrize("name", ["head", "head_init", "norms"])
def test_unknown_choices_say_so(name):
    with pytest.raises(ValueError, match=f"{name} must be one of .*, not 'none'"):
        CAMNet(20, (1, 1, 1, 1), thin=8, **{name: "none"})
    with pytest.raises(ValueError, match="stem must be"):
        ThinResNet((1, 1, 1, 1), stem="5x5")
