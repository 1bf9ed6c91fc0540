"""Each perturbation does to the features what it says, and nothing else."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clims_lib.perturbations import (
    PERTURBATIONS,
    context_mask,
    dropout,
    feature_drop,
    feature_noise,
    guided_cutout,
    i_vat,
    object_mask,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def features(*shape):
    return torch.rand(shape or (2, 5, 8, 8), generator=seeded(1)) + 0.1  # positive, as after a ReLU


def prediction_of(labels, num_labels=3):
    """Scores (B, L, H, W) whose largest is at these labels (B, H, W)."""
    return F.one_hot(labels, num_labels).permute(0, 3, 1, 2).float()


def scene():
    """Labels (1, 16, 16): 1 in rows 2-7 and columns 4-11, 2 in rows 10-15 and columns 0-3."""
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    labels[:, 2:8, 4:12] = 1
    labels[:, 10:16, :4] = 2
    return labels


def test_feature_drop_zeroes_exactly_the_places_above_the_drawn_share():
    z = features()
    dropped = feature_drop(z, seeded(3))
    share = torch.empty(2, 1, 1).uniform_(0.6, 0.9, generator=seeded(3))  # the same draw
    activity = z.mean(1)
    gone = activity >= share * activity.amax((1, 2), keepdim=True)
    assert gone.flatten(1).any(1).all() and not gone.all()
    assert torch.equal(dropped, z * ~gone[:, None])


def test_feature_drop_by_hand():
    z = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    assert feature_drop(z, seeded(), low=0.7, high=0.7).tolist() == [[[[1.0, 2.0, 0.0, 0.0]]]]


def test_feature_noise_stays_within_its_strength():
    z = features(4, 5, 16, 16)
    factor = feature_noise(z, seeded(), strength=0.3) / z
    assert factor.min() >= 0.7 - 1e-5 and factor.max() <= 1.3 + 1e-5
    assert factor.min() < 0.71 and factor.max() > 1.29  # and makes use of it
    assert feature_noise(torch.zeros_like(z), seeded()).abs().max() == 0  # it fits the signal


def test_dropout_drops_whole_channels_and_scales_the_rest():
    z = features(6, 40, 4, 4)
    out = dropout(z, seeded(), rate=0.5)
    kept = (out != 0).flatten(2)
    assert torch.equal(kept.all(2), kept.any(2))  # a channel is kept or dropped as a whole
    kept = kept.all(2)
    assert 0.35 < kept.float().mean() < 0.65
    torch.testing.assert_close(out, 2 * z * kept[:, :, None, None])


def test_context_mask_keeps_the_object_and_object_mask_the_rest():
    z, labels = features(1, 5, 16, 16), scene()
    is_object = (labels > 0)[:, None]
    assert torch.equal(context_mask(z, prediction_of(labels)), z * is_object)
    assert torch.equal(object_mask(z, prediction_of(labels)), z * ~is_object)


def test_a_prediction_of_another_size_is_brought_to_the_features():
    z, labels = features(1, 5, 4, 4), torch.zeros(1, 16, 16, dtype=torch.long)
    labels[:, 4:8, 8:12] = 1  # exactly the place (1, 2) of a 4 x 4 grid
    gone = object_mask(z, prediction_of(labels)) == 0
    assert gone.all(1)[0].nonzero().tolist() == [[1, 2]]


def test_guided_cutout_erases_one_box_of_the_right_size_inside_each_object():
    z, labels, places = features(1, 5, 16, 16), scene(), set()
    for seed in range(20):
        gone = guided_cutout(z, prediction_of(labels), seeded(seed), erase=0.5)[0, 0] == 0
        boxes = torch.zeros(16, 16, dtype=torch.bool)
        boxes[2:8, 4:12] = boxes[10:16, :4] = True
        assert not (gone & ~boxes).any()
        assert gone[2:8, 4:12].sum() == 3 * 4 and gone[10:16, :4].sum() == 3 * 2
        places.add(tuple(gone.nonzero()[0].tolist()))
    assert len(places) > 5  # the box moves
    nothing = prediction_of(torch.zeros_like(labels))
    assert torch.equal(guided_cutout(z, nothing, seeded()), z)


@pytest.mark.parametrize("seed", range(3))
def test_i_vat_changes_predictions_more_than_random_steps_of_its_length(seed):
    torch.manual_seed(seed)
    decoder = nn.Sequential(nn.Conv2d(12, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1)).requires_grad_(True)
    z, eps = features(4, 12, 6, 6), 1.0

    def change(moved):
        before, after = (decoder(x).log_softmax(1) for x in (z, moved))
        return F.kl_div(after, before, log_target=True, reduction="sum").item()

    worst = i_vat(z, decoder, seeded(seed), eps=eps)
    step = (worst - z).flatten(1)
    torch.testing.assert_close(step.norm(dim=1), torch.full((4,), eps), rtol=1e-4, atol=1e-4)
    for other in range(30):
        random = torch.randn(z.shape, generator=seeded(100 + other))
        random = eps * random / random.flatten(1).norm(dim=1)[:, None, None, None]
        assert change(worst) > 1.5 * change(z + random)
    assert all(p.grad is None for p in decoder.parameters())  # looking left no gradient behind


def test_no_gradient_flows_through_the_step_of_i_vat():
    decoder, z = nn.Conv2d(5, 3, 1), features().requires_grad_()
    i_vat(z, decoder, seeded()).sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_all_keep_shape_and_input_change_something_and_repeat_with_the_seed(name):
    z, labels = features(1, 5, 16, 16), scene()
    decoder, before = nn.Conv2d(5, 3, 1), z.clone()
    once, again, other = (
        PERTURBATIONS[name](z, prediction_of(labels), decoder, seeded(s)) for s in (0, 0, 1)
    )
    assert once.shape == z.shape and not torch.equal(once, z) and torch.equal(z, before)
    assert torch.equal(once, again)
    assert torch.equal(once, other) == (name in ("context_mask", "object_mask"))
    half = PERTURBATIONS[name](z.bfloat16(), prediction_of(labels), decoder, seeded())
    assert half.dtype == torch.bfloat16  # as under autocast
