"""Class maps at several scales, against what the released code of CLIMS gave (tests/golden)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from clims_lib.backbones import MEAN, STD
from clims_lib.cam import multi_scale_cam, resize_as_pillow
from clims_lib.seeds import normalise_cam

GOLDEN = json.loads((Path(__file__).parent / "golden" / "cam_inference.json").read_text())
COMMON = GOLDEN["common"]
CASES = {case["name"]: case for case in GOLDEN["cases"]}
NETWORKS = ["root_stride1", "root_stride4", "old_stride1", "old_stride4"]
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def picture():
    """uint8 (1, 3, 13, 17) as float32 in [0, 1]."""
    pixels = torch.tensor(COMMON["picture_uint8_hwc"], dtype=torch.uint8)
    return pixels.permute(2, 0, 1)[None].float() / 255


class Stub(nn.Module):
    """The golden network, normalisation included; its scores by picture are kept in `seen`."""

    def __init__(self, case):
        super().__init__()
        normalisation = CLIP if "CLIP" in case["inputs"].get("normalisation", "") else (MEAN, STD)
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in normalisation)
        self.first = torch.tensor(COMMON["conv3x3_weights"])
        self.last = torch.tensor(COMMON["conv1x1_weights"])
        self.stride, self.seen = case["inputs"]["conv_stride"], []

    def forward(self, x):
        x = nn.functional.conv2d((x - self.mean) / self.std, self.first, None, self.stride, 1)
        self.seen.append(nn.functional.conv2d(x.relu(), self.last))
        return self.seen[-1]


def close(found, expected, rtol=1e-5, atol=2e-6):
    expected = torch.tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_released_maps(name):
    case = CASES[name]
    keys, scales = case["outputs"]["keys_zero_based"], case["inputs"]["scales"]
    for stride, grid, known in [(4, 4, "cam_quarter"), (1, 16, "cam_full")]:
        stub = Stub(case)
        maps = multi_scale_cam(
            stub,
            picture(),
            scales=scales,
            flip=True,
            activation="relu",
            stride=stride,
            grid=grid,
            rescale="pillow",
            reduction="sum",
        )
        maps = normalise_cam(maps[0], torch.tensor(COMMON["labels"]), "max", epsilon=1e-5)
        close(maps[keys], case["outputs"][known])
        assert maps[[k for k in range(len(maps)) if k not in keys]].abs().max() == 0
        pairs = zip(stub.seen[::2], stub.seen[1::2], strict=True)
        per_scale = case["outputs"]["per_scale_cams_after_relu_and_flip_sum"]
        for (plain, mirrored), expected in zip(pairs, per_scale, strict=True):
            close((plain.relu() + mirrored.relu().flip(-1))[0], expected)


def test_the_golden_pictures_level_for_level():
    for scale, pixels in COMMON["rescaled_pictures_uint8 (root, PIL bicubic)"].items():
        size = [round(side * float(scale[1:])) for side in (13, 17)]
        found = resize_as_pillow(picture(), size)[0].permute(1, 2, 0) * 255
        assert found.round().int().tolist() == pixels


@pytest.mark.parametrize("size", [(80, 63), (80, 47), (161, 63), (29, 63), (80, 150), (40, 32)])
def test_pictures_as_pillow_resizes_them(size):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 63, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    found = (resize_as_pillow(x, size)[0].permute(1, 2, 0) * 255).round().numpy()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rule", CASES["size rules"]["outputs"], ids=lambda r: str(r["picture_hw"]))
def test_sizes(rule):
    height, width = rule["picture_hw"]
    for stride, grid, expected in [(4, 4, rule["quarter"]), (1, 16, rule["picture_hw"])]:
        maps = multi_scale_cam(
            nn.Identity(),
            torch.rand(1, 3, height, width),
            scales=[1],
            flip=False,
            activation="relu",
            stride=stride,
            grid=grid,
        )
        assert list(maps.shape[-2:]) == expected


def test_the_sum_is_the_mean_times_the_number_of_maps():
    how = {"scales": [1, 0.5], "flip": True, "activation": "relu"}
    mean = multi_scale_cam(nn.Identity(), picture(), **how)
    total = multi_scale_cam(nn.Identity(), picture(), **how, reduction="sum")
    torch.testing.assert_close(total, 4 * mean)


def test_unknown_choices_say_so():
    how = {"scales": [1], "flip": True, "activation": "relu"}
    for name in ("rescale", "reduction"):
        with pytest.raises(ValueError, match=f"{name} must be one of .*not 'maximum'"):
            multi_scale_cam(nn.Identity(), picture(), **how | {name: "maximum"})
