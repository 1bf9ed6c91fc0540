"""The releases' optimiser, step by step, against figures of their own code (tests/golden)."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from clims_lib.optimisers import head_and_body, new_optimiser, new_schedule, whole_batches
from clims_lib.training import train

CASES = json.loads((Path(__file__).parent / "golden/optimiser.json").read_text())["cases"]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def close(found, expected):
    torch.testing.assert_close(double(found), double(expected), rtol=1e-6, atol=1e-9)


class Bowl(nn.Module):
    """Parameters one by one, and the quadratic loss of the golden file."""

    def __init__(self, given):
        super().__init__()
        self.places = nn.ParameterList(nn.Parameter(double([x])) for x in given["start"])
        self.curvatures, self.targets = double(given["curvatures"]), double(given["targets"])

    def loss(self):
        away = torch.cat(list(self.places)) - self.targets
        return (0.5 * self.curvatures * away**2).sum()


def optimiser_of(model, case):
    given = case["inputs"]
    groups = [
        {"params": [model.places[i] for i in group["index"]]}
        | {name: value for name, value in group.items() if name != "index"}
        for group in given["groups_by_parameter_index"]
    ]
    name = "released_nesterov" if given["constructor"].get("nesterov") else "released_sgd"
    made = given["constructor"]
    return name, new_optimiser(name, groups, made["lr"], made["weight_decay"])


@pytest.mark.parametrize("case", CASES, ids=[case["name"][:40] for case in CASES])
def test_settings_and_trajectory(case):
    given, told, model = case["inputs"], case["outputs"], Bowl(case["inputs"])
    name, optimiser = optimiser_of(model, case)
    for group, expected in zip(optimiser.param_groups, told["param_groups_in_force"], strict=True):
        assert {key: group[key] for key in expected} == expected
    schedule = new_schedule(name, optimiser, given["max_step"])
    found = []

    def loss(model, batch, progress):
        value = model.loss()
        rates = [group["lr"] for group in optimiser.param_groups]
        found.append([value.item(), rates])
        return value, {}

    places = []  # after each step, seen at the end of an epoch of one
    train(
        model,
        loss,
        lambda start: iter([(torch.zeros(1),)] * given["steps"]),
        steps=given["steps"],
        optimiser=optimiser,
        schedule=schedule,
        steps_per_epoch=1,
        amp=False,
        watch=lambda epoch, model: places.append([p.item() for p in model.places]),
    )
    values, rates = zip(*found, strict=True)
    close(values, told["loss_before_each_step"])
    close(rates, told["learning_rates_used_at_each_step"])
    close(places, told["parameters_after_each_step"])


def test_groups_of_a_network_have_the_head_s_factor_and_their_own_decay():
    model = nn.Module()
    model.backbone, model.head = nn.Linear(2, 2), nn.Linear(2, 2)
    told = CASES[0]["outputs"]["param_groups_in_force"]  # improved release: head ten times
    groups = head_and_body(model, 0.00025, 10, 0.0001)
    optimiser = new_optimiser("released_sgd", groups, 0.00025, 0.0001)
    for group, expected in zip(optimiser.param_groups, told, strict=True):
        assert {key: group[key] for key in expected} == expected
    plain = new_optimiser("sgd", head_and_body(model, 0.00025, 10), 0.00025, 0.0001)
    assert [g["momentum"] for g in plain.param_groups] == [0.9, 0.9]
    assert [g["weight_decay"] for g in plain.param_groups] == [0.0001, 0.0001]
    forgotten = new_optimiser("released_sgd", head_and_body(model, 0.1, 10), 0.1, 0.0001)
    assert [g["weight_decay"] for g in forgotten.param_groups] == [0, 0]  # as released


def test_the_decay_counts_whole_batches():
    """The figures of golden/network.json's facts."""
    assert whole_batches(10582, 16, 5) == 3305
    assert whole_batches(10582, 16, 10) == 6610
    assert whole_batches(10582, 16, 15) == 9915
