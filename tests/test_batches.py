"""What a training step sees: decided by seed and step, mirrored together with the masks."""

import random
from itertools import islice

import numpy as np
import pytest
import torch

from clims_lib import batches
from clims_lib.batches import DrawnBatches, MemoryBatches, draw_order


def data(count=24):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=g, dtype=torch.uint8)
    labels = torch.stack([images[:, 0], images[:, 1]], 1).float().mean((2, 3)) > 127
    return images, labels.float(), None


def equal(some, others):
    pairs = list(zip(some, others, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_batches_depend_on_seed_and_epoch_alone():
    batches = MemoryBatches(*data(), 7, seed=3)
    first = list(islice(batches(0), 4))
    torch.manual_seed(99), random.seed(99), np.random.seed(99), torch.rand(10)
    assert equal(first, islice(MemoryBatches(*data(), 7, seed=3)(0), 4))
    assert not equal(first, islice(batches(4), 4))  # the next epoch
    assert not equal(first, islice(MemoryBatches(*data(), 7, seed=4)(0), 4))
    state = torch.get_rng_state()
    next(batches(5))
    assert torch.equal(state, torch.get_rng_state())


def test_an_epoch_holds_every_picture_once_in_zero_to_one():
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 2, 2)
    batches = MemoryBatches(images, torch.zeros(10, 2), None, 4, seed=0)
    assert batches.steps_per_epoch == 3
    seen = torch.cat([x[:, 0, 0, 0] for x, _, _ in islice(batches(0), 3)])
    assert sorted((255 * seen).round().int().tolist()) == list(range(10))


def test_masks_are_mirrored_with_their_pictures():
    images = torch.zeros(30, 3, 4, 4, dtype=torch.uint8)
    images[..., 0] = 255
    corners = set()
    batches = MemoryBatches(images, torch.zeros(30, 2), images[:, 0], 8, seed=0)
    for x, _, m in islice(batches(0), 4):
        assert torch.equal(x[:, 0] > 0, m > 0)
        corners |= set(m[:, 0, 0].tolist())
    assert corners == {0, 255}


def test_counts_that_differ():
    images, labels, _ = data(4)
    with pytest.raises(ValueError, match="equally many"):
        MemoryBatches(images, labels[:3], None, 2, seed=0)
    with pytest.raises(ValueError, match="equally many"):
        MemoryBatches(images, labels, torch.zeros(3, 8, 8), 2, seed=0)


@pytest.mark.parametrize("start", [1, 3, 4, 6])
def test_going_on_within_and_between_epochs(start):
    """Four batches of 23 pictures an epoch, the last one smaller."""
    batches = MemoryBatches(*data(23), 7, seed=3)
    whole, rest = list(islice(batches(0), 9)), list(islice(batches(start), 9 - start))
    assert batches.steps_per_epoch == 4 and len(whole[3][0]) == 2
    assert equal(whole[start:], rest)


def test_a_last_batch_of_one_picture_is_left_out():
    batches = MemoryBatches(*data(22), 7, seed=3)
    assert batches.steps_per_epoch == 3
    assert [len(x) for x, _, _ in islice(batches(0), 6)] == [7] * 6


@pytest.mark.parametrize("drawn", [False, True])
def test_pictures_travel_as_bytes_and_are_cut_where_they_arrive(drawn, monkeypatch):
    """On the device "meta" nothing mixes with what stayed behind."""
    images, labels, _ = data()
    masks, travelled = images[:, 0], []

    def place(part, device):
        travelled.append(part)
        return part.to(device)

    monkeypatch.setattr(batches, "place", place)
    how = {"seed": 0, "crop": 6, "resize": (0.5, 2.0), "device": "meta"}
    if drawn:
        x, m = next(iter(DrawnBatches(images, masks, 5, steps=2, **how)(1)))
    else:
        x, y, m = next(iter(MemoryBatches(images, labels, masks, 5, **how)(1)))
        assert y.device.type == "cpu"  # training moves what is small
    assert x.shape == (5, 3, 6, 6) and x.dtype == torch.float32 and m.dtype == torch.uint8
    assert x.device.type == m.device.type == "meta"
    assert x.is_contiguous(memory_format=torch.channels_last)
    large = [part.dtype for part in travelled if part.numel() > 6 * len(part)]
    assert large == [torch.uint8, torch.uint8]  # besides, a few numbers a picture


# ---- Drawn for all steps at once


def test_every_picture_is_seen_once_an_epoch():
    order = draw_order(6, 4, 5, torch.Generator().manual_seed(0))
    assert order.shape == (5, 4)
    for epoch in order.flatten()[:18].split(6):
        assert sorted(epoch.tolist()) == list(range(6))
    with pytest.raises(ValueError, match="all must be >= 1"):
        draw_order(0, 4, 5, torch.Generator())


def test_going_on_from_a_step_gives_the_same_batches():
    images = torch.randint(0, 256, (7, 3, 4, 4), dtype=torch.uint8)
    masks = images[:, 0] % 3  # so that a mask can be checked against its picture
    make = DrawnBatches(images, masks, 3, steps=8, seed=1)
    whole, rest = list(make(0)), list(make(5))
    assert len(whole) == 8 and len(rest) == 3
    for (x, m), (y, n) in zip(whole[5:], rest, strict=True):
        assert torch.equal(x, y) and torch.equal(m, n)
    torch.rand(5)  # whatever else draws random numbers
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole, make(0), strict=True))


def test_pictures_and_masks_are_mirrored_together():
    images = torch.zeros(20, 3, 4, 4, dtype=torch.uint8)
    images[:, :, :, 0] = 255
    mirrored = set()
    masks = images[:, 0] // 255
    for x, m in DrawnBatches(images, masks, 10, steps=4, seed=0)(0):
        assert torch.equal(m > 0, x[:, 0] > 0)
        mirrored |= set(m[:, 0, 0].tolist())
    assert mirrored == {0, 1}
    without = DrawnBatches(images, None, 2, steps=1, seed=0)
    assert next(iter(without(0)))[1] is None
