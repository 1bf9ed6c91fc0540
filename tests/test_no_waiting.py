"""A training step asks its GPU for no value: to answer, it must finish all that it was given.

The device "meta" stands for the GPU: its tensors have no values, so asking for one is an error.
"""

from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from test_together import CASES, data
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clims_lib.batches import MemoryBatches
from clims_lib.deeplab import all_scales_loss
from clims_lib.devices import Placed
from clims_lib.losses import Forms
from clims_lib.objectives import area_cam_loss, clims_training_loss, mask_loss
from clims_lib.shares import micro_batches
from clims_lib.training import Step

THERE = torch.device("meta")


class NoWaiting(TorchDispatchMode):
    """Copies from one device to the other must not be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        places = {x.device.type for x in tree_leaves((args, out)) if isinstance(x, torch.Tensor)}
        if func is torch.ops.aten._to_copy.default and len(places) > 1:
            assert kwargs.get("non_blocking"), "a copy that waits"
        return out


@contextmanager
def no_waiting():
    make = torch.tensor

    def made(*given, **more):  # a tensor made from numbers is copied at once
        assert torch.device(more.get("device") or "cpu") != THERE, "a copy that waits"
        return make(*given, **more)

    with mock.patch.object(torch, "tensor", made), NoWaiting():
        yield


def clims_loss(**more):
    texts, project = torch.rand(4, 6, device=THERE), torch.rand(3 * 32 * 32, 6, device=THERE)
    encode = lambda x: F.normalize(x.flatten(1) @ project, dim=-1)  # noqa: E731
    weights = {"otm": 1.0, "btm": 1.0, "cbs": 1.0, "reg": 1.0}
    return clims_training_loss(encode, texts, texts[:, None], size=32, weights=weights, **more)


def new_deeplab():
    """Scores of two scales at stride 8."""
    net = torch.nn.Conv2d(3, 5, 8, stride=8)
    net.all_scores = lambda x: [net(x), net(F.avg_pool2d(x, 2))]
    return net


class Enlarged(torch.nn.Conv2d):
    def forward(self, images):
        return F.interpolate(super().forward(images), images.shape[-2:])


NETWORKS = CASES | {
    "clims": (CASES["clims"][0], clims_loss),
    "clims, released": (
        CASES["clims"][0],
        lambda: clims_loss(
            forms=Forms("pair_mean", "pair_sum", class_weights=(1.0, 3.0, 1.0, 1.0)),
            normalisation="imagenet",
            align_corners=True,
        ),
    ),
    "cam_area": (CASES["cam"][0], lambda: area_cam_loss(area_weight=1.0)),
    "masks": (lambda: Enlarged(3, 5, 8, stride=8), mask_loss),
    "deeplab": (new_deeplab, all_scales_loss),
}


def batch_of(name):
    images, labels, masks = data()
    if name in ("supervised", "cct"):
        weak = images.float() if name == "cct" else None
        batch = images.float(), masks.clamp(max=4), weak, None
    else:
        masks = masks.clamp(max=4) if name in ("masks", "deeplab") else masks
        batch = images.float() / 255, labels, masks
    there = [None if part is None else part.to(THERE) for part in batch]
    return Placed(there, batch)


@pytest.mark.parametrize("accumulate, size", [(1, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_loss_asks_for_a_value(name, accumulate, size):
    model, loss = (new() for new in NETWORKS[name])
    team = SimpleNamespace(size=size, rank=0, sum=lambda numbers: numbers)
    step, batch = Step(model.to(THERE), loss), batch_of(name)
    with no_waiting():
        for some, weight in micro_batches(batch, accumulate, team, loss, model):
            value, _ = step(some, weight, 0.5)
            value.backward()
    assert any(p.grad is not None and p.grad.device == THERE for p in model.parameters())


@pytest.mark.parametrize("name", ["clims", "clims, released"])
def test_who_asks_would_be_seen(name):
    model, loss = (new() for new in NETWORKS[name])
    with pytest.raises(NotImplementedError, match="nonzero"):
        loss(model.to(THERE), tuple(batch_of(name)), 0.5)
    with pytest.raises(AssertionError, match="a copy that waits"), no_waiting():
        torch.tensor([1.0], device=THERE)
    with pytest.raises(AssertionError, match="a copy that waits"), no_waiting():
        torch.zeros(2).to(THERE)


def test_pictures_are_cut_without_waiting():
    batches = MemoryBatches(*data(), 8, 0, crop=24, resize=(0.5, 2.0), device=THERE)
    with no_waiting():
        x, _, m = next(iter(batches(0)))
    assert x.device == m.device == THERE
