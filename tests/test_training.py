"""The losses of CAM, PuzzleCAM and full masks by hand, and the training loop."""

import math
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clims_lib.batches import MemoryBatches
from clims_lib.devices import ALONE
from clims_lib.objectives import (
    area_cam_loss,
    cam_loss,
    clims_training_loss,
    cut_tiles,
    full_mask_loss,
    join_tiles,
    mask_loss,
    pooled_scores,
    puzzle_loss,
)
from clims_lib.optimisers import head_and_body, new_optimiser, new_schedule
from clims_lib.training import epoch_means, micro_batches, train


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
    value, parts = area_cam_loss(area_weight=0.5)(Same(), (images, labels, None), 0.0)
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
    value, _ = full_mask_loss()(Same(), (images, labels, masks), 0.0)
    by_hand = (bce([2, -1], [1, 0]) + bce([0, -1], [0, 0])) / 2
    assert value.item() == pytest.approx(by_hand, abs=1e-6)
    nothing, _ = full_mask_loss()(Same(), (images, labels, torch.full_like(masks, 255)), 0.0)
    assert nothing.item() == 0
    with pytest.raises(ValueError, match="full_masks needs the masks"):
        full_mask_loss()(Same(), (images, labels, None), 0.0)


def test_full_mask_loss_enlarges_the_maps_to_the_masks():
    class Coarse(nn.Module):
        def forward(self, images):
            return F.avg_pool2d(images[:, :2], 2)

    images, labels = pictures()
    value, _ = full_mask_loss()(Coarse(), (images, labels, torch.zeros(1, 4, 4)), 0.0)
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


def fit(model, epochs=4, loss=None, batches=None, **more):
    batches = batches or MemoryBatches(*data(), 8, seed=0)
    optimiser = new_optimiser("adamw", head_and_body(model, 1e-2, 5), 1e-2, 1e-4)
    steps = epochs * batches.steps_per_epoch
    return train(
        model,
        loss or area_cam_loss(area_weight=0.1),
        batches,
        steps=steps,
        optimiser=optimiser,
        schedule=new_schedule("adamw", optimiser, steps, batches.steps_per_epoch),
        steps_per_epoch=batches.steps_per_epoch,
        clip_norm=5.0,
        **more,
    )


def test_a_checkpoint_is_written_at_the_end_of_every_epoch_and_when_the_last_is_old():
    states = []
    fit(Small(), save=lambda state: states.append(state["step"]))
    assert states == [3, 6, 9]  # not after the last one: what was trained is there
    states.clear()
    fit(Small(), save=lambda state: states.append(state["step"]), save_every=0.0)
    assert states == list(range(1, 12))


def test_nobody_elses_random_numbers_are_disturbed():
    torch.manual_seed(5)
    expected = torch.rand(3)
    one, other = Small(), Small()
    torch.manual_seed(5)  # and what was drawn before makes no difference
    history = fit(one)
    assert torch.equal(torch.rand(3), expected)
    assert fit(other) == history
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_progress_and_watch_are_told():
    told, watched = [], []

    def watch(epoch, model):
        model.eval()  # as one that makes maps does; training goes on as without it
        watched.append(epoch)

    history = fit(Small(), epochs=2, progress=lambda loss: told.append(loss), watch=watch)
    assert told == [step["loss"] for step in history] and watched == [1, 2]
    assert history == fit(Small(), epochs=2)


def test_the_means_of_every_epoch():
    history = [{"loss": float(i), "part": 2.0 * i} for i in range(6)]
    assert epoch_means(history, 3) == [{"loss": 1.0, "part": 2.0}, {"loss": 4.0, "part": 8.0}]
    assert epoch_means(history[:4], 3)[1] == history[3]  # cut short


def test_batches_that_run_out():
    class Two(MemoryBatches):
        def __call__(self, start):
            return islice(super().__call__(start), 2)

    with pytest.raises(ValueError, match="ran out after 2 of 3 steps"):
        fit(Small(), epochs=1, batches=Two(*data(), 8, seed=0))


# ---- Micro-batches


@pytest.mark.parametrize("loss", [mask_loss(), full_mask_loss()], ids=["masks", "full_masks"])
def test_micro_batches_of_unevenly_ignored_masks_add_up_to_the_gradient_by_hand(loss):
    """Pictures with 1, 5, 16 and no known pixels: each known pixel counts the same."""
    g = torch.Generator().manual_seed(0)
    images, masks = torch.rand(4, 3, 4, 4, generator=g), torch.full((4, 4, 4), 255).byte()
    for mask, known in zip(masks, (1, 5, 16, 0), strict=True):
        mask.view(-1)[:known] = torch.randint(0, 3, (known,), generator=g).byte()

    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(3, 3 if loss.loss.__qualname__.startswith("mask_loss") else 2, 1)

        def forward(self, images):
            return self.head(images)

    model, total = Line(), 0
    for image, mask in zip(images, masks, strict=True):  # pixel by pixel
        for y, x in (mask != 255).nonzero().tolist():
            scores = model.head.weight[:, :, 0, 0] @ image[:, y, x] + model.head.bias
            klass = int(mask[y, x])
            if len(scores) == 3:
                total = total - scores.log_softmax(0)[klass]
            else:
                truth = torch.tensor([float(klass == 1), float(klass == 2)])
                total = total - F.logsigmoid(torch.where(truth > 0, scores, -scores)).mean()
    by_hand = torch.autograd.grad(total / 22, list(model.parameters()))
    batches = lambda start: [(images, torch.zeros(4, 2), masks)]  # noqa: E731
    for accumulate in (1, 2, 4):
        before = [p.detach().clone() for p in model.parameters()]
        sgd = torch.optim.SGD(model.parameters(), 1.0)
        train(model, loss, batches, steps=1, optimiser=sgd, amp=False, accumulate=accumulate)
        for p, start, gradient in zip(model.parameters(), before, by_hand, strict=True):
            torch.testing.assert_close(start - p.detach(), gradient, atol=1e-6, rtol=1e-4)
            p.data.copy_(start)


@pytest.mark.parametrize("count, accumulate", [(4, 4), (5, 5), (7, 3), (2, 9), (1, 2)])
def test_a_batch_norm_that_learns_sees_two_pictures(count, accumulate):
    batch, model = (torch.rand(count, 3, 8, 8), [str(i) for i in range(count)]), Small()
    for learns, least in ((True, min(count, 2)), (False, 1)):
        parts = list(micro_batches(batch, accumulate, ALONE, cam_loss(), model.train(learns)))
        assert all(len(x) == len(texts) >= least for (x, texts), _ in parts)
        assert len(parts) == max(1, min(accumulate, count // least))
        assert sum((texts for (_, texts), _ in parts), []) == batch[1]
        assert sum(weight for _, weight in parts) == pytest.approx(1)


def test_parts_of_a_batch_may_differ_in_length():
    """CCT's labelled and weak pictures."""
    batch = torch.rand(4, 3, 8, 8), torch.rand(4), torch.rand(6, 3, 8, 8), None
    parts = [p for p, _ in micro_batches(batch, 2, ALONE, cam_loss(), Small())]
    assert [[None if x is None else len(x) for x in p] for p in parts] == [[2, 2, 3, None]] * 2


# ---- Learning rates


def rates(optimiser, schedule, steps):
    """The learning rates of every group in every step."""
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        schedule.step()
    return seen


def test_learning_rates_are_those_of_the_formulas():
    epochs, per_epoch, model = 4, 5, Small()
    steps = epochs * per_epoch
    for name in ("adamw", "sgd"):
        optimiser = new_optimiser(name, head_and_body(model, 0.3, 7), 0.3, 0.0)
        found = rates(optimiser, new_schedule(name, optimiser, steps, per_epoch), steps)
        for step, (body, head) in enumerate(found):
            cosine = (1 + math.cos(math.pi * ((step // per_epoch) / epochs))) / 2
            factor = cosine if name == "adamw" else (1 - step / steps) ** 0.9
            assert (body, head) == (0.3 * factor, 0.3 * 7 * factor)


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
    optimiser = new_optimiser(name, head_and_body(model, 0.1, 10), 0.1, 0.0)
    train(
        model,
        loss,
        MemoryBatches(images, torch.zeros(6, 2), None, 2, 0),
        steps=6,
        optimiser=optimiser,
        schedule=new_schedule(name, optimiser, 6, 3),
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
        new_optimiser("adam", model.parameters(), 0.1, 0.0)
