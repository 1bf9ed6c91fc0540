"""Optimisers and learning rates of the papers and of what their releases really ran."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def head_and_body(
    model: nn.Module, lr: float, head_lr_factor: float, weight_decay: float | None = None
) -> list[dict]:
    """A network's parameters in two groups: the `head` learns `head_lr_factor` times as fast.

    weight_decay: of the groups themselves; by default they have the optimiser's.
    """
    head = list(model.get_submodule("head").parameters())
    body = [p for p in model.parameters() if all(p is not h for h in head)]
    own = {} if weight_decay is None else {"weight_decay": weight_decay}
    return [{"params": body, "lr": lr} | own, {"params": head, "lr": lr * head_lr_factor} | own]


def weights_and_biases(model: nn.Module, group: dict) -> list[dict]:
    """A group of `head_and_body` in two, as PuzzleCAM has it: biases learn twice as fast, and do
    not decay."""
    biases = {p for name, p in model.named_parameters() if name.endswith("bias")}
    of_bias = {"lr": 2 * group["lr"], "weight_decay": 0.0}
    return [
        group | {"params": [p for p in group["params"] if p not in biases]},
        group | of_bias | {"params": [p for p in group["params"] if p in biases]},
    ]


def new_optimiser(
    name: str, parameters: Iterable, lr: float, weight_decay: float, fused: bool = True
) -> Optimizer:
    """ "adamw", or what CAM papers train with: "sgd" with Nesterov momentum 0.9.

    parameters: a model's, or groups of them. "momentum_sgd" is CCT's and DeepLabV2's as released:
    momentum 0.9 without Nesterov's look ahead. "released_sgd" is what CLIMS and IRN really ran, and
    "released_nesterov" PuzzleCAM: their weight decay lands in SGD's momentum, which is then 1e-4
    in place of 0.9, so that every step is about a tenth as long; only what the groups state
    themselves decays the weights. Raises ValueError for others.
    """
    if name not in DECAYS:
        raise ValueError(f"optimiser must be one of {sorted(DECAYS)}, not {name!r}")
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr, weight_decay=weight_decay, fused=fused)
    if name.startswith("released"):
        nesterov = name == "released_nesterov"
        return torch.optim.SGD(parameters, lr, momentum=weight_decay, nesterov=nesterov)
    nesterov = name == "sgd"
    return torch.optim.SGD(
        parameters, lr, momentum=0.9, nesterov=nesterov, weight_decay=weight_decay
    )


def new_schedule(name: str, optimiser: Optimizer, steps: int, steps_per_epoch: int = 1) -> LambdaLR:
    """The decay that goes with `new_optimiser(name)`: cosine, epoch by epoch; polynomial.

    steps: of the decay; a released optimiser keeps its last rate in those that come after. With
    "momentum_sgd" an epoch is how long a rate stays: 1 step for CCT, 10 for DeepLabV2.
    """
    return LambdaLR(optimiser, lambda step: DECAYS[name](step, steps, steps_per_epoch))


def cam_optimiser(
    name: str,
    model: nn.Module,
    lr: float,
    head_lr_factor: float,
    weight_decay: float,
    *,
    steps: int,
    steps_per_epoch: int,
    decay: int,
) -> tuple[Optimizer, LambdaLR]:
    """The optimiser and schedule of a network with a `head`, which learns faster.

    decay: the steps over which the released ones decay (`whole_batches`), the others over all.
    """
    released = name.startswith("released")
    groups = head_and_body(model, lr, head_lr_factor, weight_decay if released else None)
    if name == "released_nesterov":
        groups = [half for group in groups for half in weights_and_biases(model, group)]
    optimiser = new_optimiser(name, groups, lr, weight_decay)
    return optimiser, new_schedule(
        name, optimiser, max(1, decay) if released else steps, steps_per_epoch
    )


DECAYS = {  # (step, steps, steps per epoch) -> factor of the learning rate
    "adamw": lambda t, n, e: (1 + math.cos(math.pi * ((t // e) / math.ceil(n / e)))) / 2,
    "sgd": lambda t, n, e: (1 - t / n) ** 0.9,
    "momentum_sgd": lambda t, n, e: (1 - t // e * e / n) ** 0.9,
    "released_sgd": lambda t, n, e: (1 - min(t, n - 1) / n) ** 0.9,
    "released_nesterov": lambda t, n, e: (1 - min(t, n - 1) / n) ** 0.9,
}


def whole_batches(pictures: int, batch: int, epochs: int) -> int:
    """The steps over which both releases decay: an epoch's last, smaller batch does not count.

    The camera-ready release trains on it all the same, 6,620 steps with a decay over 6,610.
    """
    return pictures // batch * epochs
