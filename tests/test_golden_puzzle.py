"""PuzzleCAM against figures of the authors' release: tiles, total loss and gradients.

golden/puzzle.json holds small inputs and what the released code made of them in double precision.
Its last five cases are options that neither of the release's recipes uses (other distances, maps
divided by their maximum, a confidence loss); we have none of them.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from clims_lib.objectives import cut_tiles, join_tiles, pooled_scores, puzzle_loss

CASES = json.loads((Path(__file__).parent / "golden" / "puzzle.json").read_text())["cases"]
RECIPES = [c for c in CASES if c["name"].split()[0] in ("defaults,", "alpha", "alpha_schedule")]


class Given(nn.Module):
    """A network that gives the figures' scores for the whole pictures, then for their tiles."""

    def __init__(self, case):
        super().__init__()
        self.whole = nn.Parameter(torch.tensor(case["inputs"]["whole_features"]))
        self.tiles = nn.Parameter(torch.tensor(case["inputs"]["tile_features_in_tile_order"]))

    def forward(self, images):
        return self.whole if len(images) == len(self.whole) else self.tiles


def total_of(case, rectified=False):
    """(the network, total loss, its parts) of one case."""
    given, network = case["inputs"], Given(case)
    loss = puzzle_loss(
        tiles=2, alpha=given["alpha"], ramp=given["alpha_schedule"], rectified=rectified
    )
    labels = torch.tensor(given["labels"]).float()
    images = torch.zeros(len(labels), 3, 2, 2)
    done = given["iteration"] / given["max_iteration"]
    return network, *loss(network, (images, labels, None), done)


def test_all_cases_of_the_recipes_are_run():
    assert len(RECIPES) == 6 and len(CASES) == 4 + 6 + 5


@pytest.mark.parametrize("case", CASES[:2], ids=lambda c: c["name"])
def test_tiles_come_in_the_released_order(case):
    x = torch.tensor(case["inputs"]["x"])
    number = round(case["inputs"]["num_pieces"] ** 0.5)
    tiles = cut_tiles(x, number)
    assert torch.equal(tiles, torch.tensor(case["outputs"]["tiles"]))
    assert torch.equal(join_tiles(tiles, number), x)


def test_a_picture_that_cannot_be_cut_is_refused():
    shape = CASES[2]["inputs"]["shape"]  # the release fails, too, while it joins the tiles
    with pytest.raises(ValueError, match="equal tiles"):
        cut_tiles(torch.zeros(shape), 2)


@pytest.mark.parametrize("case", RECIPES, ids=lambda c: c["name"])
def test_total_parts_and_gradients(case):
    network, value, parts = total_of(case)
    names = {"bce": "class_loss", "bce_tiles": "p_class_loss", "puzzle": "re_loss"}
    expected = case["outputs"]
    for ours, theirs in names.items():
        assert parts[ours].item() == pytest.approx(expected[theirs], rel=1e-6)
    assert value.item() == pytest.approx(expected["total"], rel=1e-6)
    logits = torch.tensor(expected["logits_whole"])
    torch.testing.assert_close(pooled_scores(network.whole), logits, rtol=1e-6, atol=1e-6)
    value.backward()
    for kind, x in (("whole", network.whole), ("tile", network.tiles)):
        gradient = torch.tensor(expected[f"d_total_d_{kind}_features"])
        torch.testing.assert_close(x.grad, gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("rectified, expected", [(False, (2 + 1) / 4), (True, (0 + 1) / 4)])
def test_the_parts_below_zero_count_only_in_the_released_loss(rectified, expected):
    given = {
        "whole_features": [[[[-1.0, 2.0], [0.0, 0.0]]]],
        "tile_features_in_tile_order": [[[[-3.0]]], [[[1.0]]], [[[0.0]]], [[[0.0]]]],
        "labels": [[1]],
        "iteration": 0,
        "max_iteration": 1,
        "alpha": 1,
        "alpha_schedule": 0.5,
    }
    assert total_of({"inputs": given}, rectified)[2]["puzzle"].item() == expected
