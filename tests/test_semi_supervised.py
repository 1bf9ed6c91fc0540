"""The stages of CCT: its network and its methods."""

import pytest
import torch

from clims_lib.cct_network import CCT
from clims_lib.config import load_profile
from clims_lib.stages.methods import trainers
from clims_lib.stages.semi_supervised import new_cct, train_cct


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
    kinds = [t for t in trainers(load_profile("tiny")).values() if t.section == "cct"]
    forms = {(t.consistency, t.pseudo) for t in kinds}
    assert forms == {(a, b) for a in (False, True) for b in (False, True)} and len(kinds) == 4
    for masks in ("cam", "cam_walk"):
        assert "cct_cam" in trainers(load_profile("tiny", [f"pseudo.method={masks}"]))
    with pytest.raises(ValueError, match="no method 'cct_clim'; did you mean cct_clims"):
        train_cct(load_profile("tiny"), "cct_clim")
