"""The losses of CAM, PuzzleCAM and full masks by hand, and a training loop that resumes."""

import copy
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clims_lib.batches import MemoryBatches
from clims_lib.objectives import (
    cam_loss,
    clims_training_loss,
    cut_tiles,
    full_mask_loss,
    join_tiles,
    pooled_scores,
    puzzle_loss,
)
from clims_lib.training import train


class Same(nn.Module):
    """A stub network: its score maps are the picture's first two colours."""

    def forward(self, images):
        return images[:, :2]


def bce(scores, labels):
    """Binary cross entropy of numbers, written out."""
    p = [1 / (1 + math.exp(-s)) for s in scores]
    return -sum(math.log(q if y else 1 - q) for q, y in zip(p, labels, strict=True)) / len(labels)


# ---- Tiles


def test_tiles_by_hand():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    tiles = cut_tiles(x, 2)
    assert tiles.shape == (4, 1, 2, 2)
    assert tiles[1, 0].tolist() == [[2, 3], [6, 7]]  # top right comes second: row by row
    assert tiles[2, 0].tolist() == [[8, 9], [12, 13]]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_join_is_the_inverse_of_cut(n):
    x = torch.rand(2, 3, 6, 12)
    assert torch.equal(join_tiles(cut_tiles(x, n), n), x)


def test_a_picture_that_cannot_be_cut():
    with pytest.raises(ValueError, match="cannot be cut into 4 x 4"):
        cut_tiles(torch.zeros(1, 3, 6, 6), 4)


# ---- Losses


def pictures():
    images = torch.zeros(1, 3, 4, 4)
    images[0, 0, :2] = 2.0  # pooled: 1
    images[0, 1] = -1.0
    return images, torch.tensor([[1.0, 0.0]])


def test_cam_loss_is_bce_of_pooled_scores():
    images, labels = pictures()
    assert pooled_scores(Same()(images)).tolist() == [[1.0, -1.0]]
    value, parts = cam_loss()(Same(), (images, labels, None), 0.0)
    assert value.item() == pytest.approx(bce([1, -1], [1, 0]), abs=1e-6)
    assert set(parts) == {"bce"}


def test_area_penalty_by_hand():
    images, labels = pictures()
    value, parts = cam_loss(0.5)(Same(), (images, labels, None), 0.0)
    sigmoid = lambda s: 1 / (1 + math.exp(-s))  # noqa: E731
    area = ((sigmoid(2) + sigmoid(0)) / 2 + sigmoid(-1)) / 2
    assert parts["reg"].item() == pytest.approx(area, abs=1e-6)
    assert value.item() == pytest.approx(bce([1, -1], [1, 0]) + 0.5 * area, abs=1e-6)


def test_puzzle_loss_is_twice_bce_where_whole_and_tiles_agree():
    images, labels = pictures()
    value, parts = puzzle_loss(tiles=2, alpha=4.0, ramp=0.5)(Same(), (images, labels, None), 1.0)
    assert value.item() == pytest.approx(2 * bce([1, -1], [1, 0]), abs=1e-6)
    assert parts["puzzle"] == 0


class Bold(nn.Module):
    """A stub that sees tiles (below 4 pixels) twice as strongly as whole pictures."""

    def forward(self, images):
        return images[:, :2] * (2 if images.shape[-1] < 4 else 1)


@pytest.mark.parametrize("progress, weight", [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 4)])
def test_puzzle_loss_by_hand_where_they_differ(progress, weight):
    images, labels = pictures()
    puzzle = puzzle_loss(tiles=2, alpha=4.0, ramp=0.5)
    value, parts = puzzle(Bold(), (images, labels, None), progress)
    # |2 - 4| on half of the present class's map, the absent one does not count: 1 / 2 on average
    assert parts["puzzle"].item() == pytest.approx(0.5)
    assert parts["bce_tiles"].item() == pytest.approx(bce([2, -2], [1, 0]), abs=1e-6)
    by_hand = bce([1, -1], [1, 0]) + bce([2, -2], [1, 0]) + weight * 0.5
    assert value.item() == pytest.approx(by_hand, abs=1e-6)


def test_full_mask_loss_by_hand_ignores_255():
    images, labels = pictures()
    masks = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    masks[0, 0, 0], masks[0, 3, 3] = 1, 0  # scores (2, -1) and (0, -1)
    value, _ = full_mask_loss(2)(Same(), (images, labels, masks), 0.0)
    by_hand = (bce([2, -1], [1, 0]) + bce([0, -1], [0, 0])) / 2
    assert value.item() == pytest.approx(by_hand, abs=1e-6)
    nothing, _ = full_mask_loss(2)(Same(), (images, labels, torch.full_like(masks, 255)), 0.0)
    assert nothing.item() == 0
    with pytest.raises(ValueError, match="full_masks needs the masks"):
        full_mask_loss(2)(Same(), (images, labels, None), 0.0)


def test_full_mask_loss_enlarges_the_maps_to_the_masks():
    class Coarse(nn.Module):
        def forward(self, images):
            return F.avg_pool2d(images[:, :2], 2)

    images, labels = pictures()
    value, _ = full_mask_loss(2)(Coarse(), (images, labels, torch.zeros(1, 4, 4)), 0.0)
    assert value.isfinite()


def test_clims_loss_reaches_the_network_and_not_clip():
    network, clip = nn.Conv2d(3, 2, 1), nn.Linear(48, 5)
    clip.requires_grad_(False)
    encode = lambda x: F.normalize(clip(x.flatten(1)), dim=-1)  # noqa: E731
    text = F.normalize(torch.rand(2, 5), dim=-1)
    ones = {"otm": 1, "btm": 1, "cbs": 1, "reg": 1}
    loss = clims_training_loss(encode, text, text[:, None], size=4, weights=ones)
    value, parts = loss(network, (torch.rand(2, 3, 4, 4), torch.ones(2, 2), None), 0.0)
    value.backward()
    assert network.weight.grad.abs().sum() > 0
    assert value.item() == pytest.approx(sum(p.item() for p in parts.values()), rel=1e-5)


# ---- The loop


class Small(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)
            )
            self.head = nn.Conv2d(8, 2, 1, bias=False)

    def forward(self, images):
        return self.head(self.body(images))


def data(count=24):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=g, dtype=torch.uint8)
    labels = torch.stack([images[:, 0], images[:, 1]], 1).float().mean((2, 3)) > 127
    return images, labels.float(), None


def fit(model, epochs=4, **more):
    batches = MemoryBatches(*data(), 8, seed=0)
    return train(
        model,
        cam_loss(0.1),
        batches,
        epochs=epochs,
        lr=1e-2,
        head_lr_factor=5,
        clip_norm=5.0,
        **more,
    )


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_interrupted_training_ends_in_the_same_weights(stopped_after):
    whole, resumed, states = Small(), Small(seed=1), []
    history = fit(whole, save=lambda state: states.append(copy.deepcopy(state)))
    assert [s["epoch"] for s in states] == [1, 2, 3]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)  # what was drawn before makes no difference, and training draws nothing
    assert fit(resumed, state=states[stopped_after - 1]) == history
    assert torch.equal(torch.rand(3), expected)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not whole.training and len(history) == 4


def test_progress_and_watch_are_told():
    told, watched = [], []
    fit(
        Small(),
        epochs=2,
        progress=lambda loss: told.append(loss),
        watch=lambda epoch, model: watched.append(epoch),
    )
    assert len(told) == 6 and watched == [1, 2]


def test_divergence_raises():
    def broken(model, batch, progress):
        value = model(batch[0]).sum() * math.nan
        return value, {}

    with pytest.raises(FloatingPointError, match="nan in epoch 1: lower the learning rate"):
        train(Small(), broken, MemoryBatches(*data(), 8, seed=0), epochs=1, lr=1.0)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_learning_rates_fall_as_published(name):
    """A loss of the weights' sum: its gradient is 1, so SGD's steps can be written down."""

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Linear(1, 1), nn.Linear(1, 1)

    model, seen = Line(), []
    start = [p.item() for p in model.parameters()]

    def loss(model, batch, progress):
        seen.append(progress)
        total = sum(p.sum() for p in model.parameters())
        return total, {}

    images = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    train(
        model,
        loss,
        MemoryBatches(images, torch.zeros(6, 2), None, 2, 0),
        epochs=2,
        lr=0.1,
        head_lr_factor=10,
        weight_decay=0.0,
        optimiser=name,
        amp=False,
    )
    assert seen == pytest.approx([i / 6 for i in range(6)])
    if name == "sgd":  # Nesterov: each step is lr (g + 0.9 v), v = 0.9 v + g
        velocity = moved = 0.0
        for i in range(6):
            velocity = 0.9 * velocity + 1
            moved += 0.1 * (1 - i / 6) ** 0.9 * (1 + 0.9 * velocity)
    else:  # Adam's steps of a constant gradient are the learning rate
        moved = sum(3 * 0.1 * (1 + math.cos(math.pi * e / 2)) / 2 for e in (0, 1))
    for p, before, factor in zip(model.parameters(), start, (1, 1, 10, 10), strict=True):
        assert before - p.item() == pytest.approx(factor * moved, rel=1e-3)
    with pytest.raises(ValueError, match="optimiser must be one of"):
        train(
            model,
            loss,
            MemoryBatches(images, torch.zeros(6, 2), None, 2, 0),
            epochs=1,
            lr=0.1,
            optimiser="adam",
        )


# ---- Batches


def equal(some, others):
    pairs = list(zip(some, others, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_batches_depend_on_seed_and_epoch_alone():
    batches = MemoryBatches(*data(), 7, seed=3)
    first = list(batches(0))
    torch.manual_seed(99), random.seed(99), np.random.seed(99), torch.rand(10)
    assert equal(first, MemoryBatches(*data(), 7, seed=3)(0))
    assert not equal(first, batches(1))
    assert not equal(first, MemoryBatches(*data(), 7, seed=4)(0))
    state = torch.get_rng_state()
    list(batches(5))
    assert torch.equal(state, torch.get_rng_state())


def test_an_epoch_holds_every_picture_once_in_zero_to_one():
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 2, 2)
    batches = MemoryBatches(images, torch.zeros(10, 2), None, 4, seed=0)(0)
    assert len(batches) == 3
    seen = torch.cat([x[:, 0, 0, 0] for x, _, _ in batches])
    assert sorted((255 * seen).round().int().tolist()) == list(range(10))


def test_masks_are_mirrored_with_their_pictures():
    images = torch.zeros(30, 3, 4, 4, dtype=torch.uint8)
    images[..., 0] = 255
    corners = set()
    for x, _, m in MemoryBatches(images, torch.zeros(30, 2), images[:, 0], 8, seed=0)(0):
        assert torch.equal(x[:, 0] > 0, m > 0)
        corners |= set(m[:, 0, 0].tolist())
    assert corners == {0, 255}


def test_counts_that_differ():
    images, labels, _ = data(4)
    with pytest.raises(ValueError, match="equally many"):
        MemoryBatches(images, labels[:3], None, 2, seed=0)
    with pytest.raises(ValueError, match="equally many"):
        MemoryBatches(images, labels, torch.zeros(3, 8, 8), 2, seed=0)
