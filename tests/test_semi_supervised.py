"""The batches of CCT: fixed by step and seed, mirrored together with their masks."""

import pytest
import torch

from clims_lib.cct_network import CCT
from clims_lib.config import load_profile
from clims_lib.settings import Augment
from clims_lib.stages.semi_supervised import _batches, draw_order, methods_of, new_cct, train_cct

WHOLE = Augment(crop=4, resize=(1.0, 1.0))


def sizes(count):
    return torch.full((count, 2), 4)


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
    make = _batches(images, sizes(7), masks, WHOLE, size=3, steps=8, seed=1)
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
    for x, m in _batches(images, sizes(20), masks, WHOLE, size=10, steps=4, seed=0)(0):
        assert torch.equal(m > 0, x[:, 0] > 0)
        mirrored |= set(m[:, 0, 0].tolist())
    assert mirrored == {0, 1}
    without = _batches(images, sizes(20), None, WHOLE, size=2, steps=1, seed=0)
    assert next(iter(without(0)))[1] is None


def test_the_network_is_the_same_for_the_same_seed_and_trains_from_nothing():
    profile = load_profile("tiny")
    state = torch.get_rng_state()
    one, two = new_cct(profile), new_cct(profile)
    assert torch.equal(state, torch.get_rng_state())  # nor is anyone else's randomness disturbed
    assert isinstance(one, CCT) and one.num_labels == len(profile.data.classes) + 1
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = new_cct(load_profile("tiny", ["seed=1"]))
    assert not torch.equal(one.main_decoder[0].weight, other.main_decoder[0].weight)


def test_a_method_that_does_not_exist():
    methods = methods_of(load_profile("tiny"))
    assert set(methods.values()) == {(a, b) for a in (False, True) for b in (False, True)}
    for masks in ("cam", "cam_walk"):
        assert list(methods_of(load_profile("tiny", [f"pseudo.method={masks}"])))[-1] == "cct_cam"
    with pytest.raises(ValueError, match="no method 'cct_clim'; did you mean cct_clims"):
        train_cct(load_profile("tiny"), "cct_clim")
