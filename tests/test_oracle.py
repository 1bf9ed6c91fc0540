"""The oracle check's masks and losses, on a toy encoder whose answer is known by hand."""

import math

import pytest
import torch

from clims_lib.oracle import MASKS, candidate_masks, losses_at_masks, margins, passes

ONES = {"otm": 1, "btm": 1, "cbs": 1, "reg": 1.0}


def scene():
    objects, ground = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    objects[:, 2:6, 2:6], ground[:, 6:] = 1, 1
    return objects, ground


def test_candidate_masks_by_hand():
    objects, ground = scene()
    masks = candidate_masks(objects, ground, stride=4)
    assert tuple(masks) == MASKS
    areas = {name: float(m.sum()) for name, m in masks.items()}
    assert areas["true"] == 16 and areas["half"] == 12  # columns 2..5, cut at their mean 3.5 -> 3
    assert areas["ground"] == 16 and areas["true+ground"] == 32
    assert areas["whole"] == 64 and areas["empty"] == 0
    assert areas["true_blurred"] == pytest.approx(16, abs=1e-4)


def test_an_encoder_that_sees_colours_passes_and_one_that_is_blind_does_not():
    objects, ground = scene()
    # red is the object, green its ground; the encoder reports how much of each is in view
    images = torch.stack([objects, ground, torch.zeros_like(objects)], 1)
    texts = torch.eye(3)[:1], torch.eye(3)[1:2][None]

    def sees(x):
        amounts = x.sum((2, 3)) + torch.tensor([0.0, 0.0, 1.0])
        return amounts / amounts.norm(dim=1, keepdim=True)

    def blind(x):
        return torch.tensor([[0.6, 0.0, 0.8]]).expand(len(x), 3)

    settings = {"weights": {"otm": 10, "btm": 24, "cbs": 1, "reg": 1.0}, "stride": 4}
    found = losses_at_masks(sees, images, objects, ground, 0, *texts, **settings)
    assert passes(found)
    assert found["whole"]["reg"] == 1 and found["empty"]["reg"] == 0
    assert found["empty"]["otm"] == pytest.approx(-math.log(1e-4), rel=1e-3)  # clamped
    assert not passes(losses_at_masks(blind, images, objects, ground, 0, *texts, **settings))


def test_margins_by_hand():
    terms = {"otm": 0.0, "btm": 0.0, "cbs": 0.0}
    loss = {"true": 3.0, "true_blurred": 2.0, "true+ground": 2.5, "half": 6.0}
    rows = [
        {"class": "car", "mask": m, "seed": 0, "loss": v, "reg": -v} | terms
        for m, v in loss.items()
    ]
    assert margins(rows) == {"car": 0.5}
    assert margins(rows, ONES) == {"car": -3.0}  # now half is cheapest, true next
    assert margins([r | {"seed": s} for s in (1, 2) for r in rows]) == {"car": 0.5}


def test_no_picture_is_an_error():
    none = torch.zeros(0, 8, 8)
    with pytest.raises(ValueError, match="no picture"):
        losses_at_masks(
            None,
            torch.zeros(0, 3, 8, 8),
            none,
            none,
            0,
            torch.eye(3)[:1],
            torch.eye(3)[:1][None],
            weights=ONES,
            stride=4,
        )
