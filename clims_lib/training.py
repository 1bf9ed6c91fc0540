"""The training loop of all CAM networks, on one process or on many.

What is minimised comes from objectives.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from clims_lib.clip_model import autocast
from clims_lib.devices import ALONE, Team
from clims_lib.objectives import Batch, Loss


@torch.random.fork_rng()  # whoever calls draws on as if nothing had been drawn here
def train(
    model: nn.Module,
    loss: Loss,
    batches: Callable[[int], list[Batch]],
    *,
    epochs: int,
    lr: float,
    head_lr_factor: float = 1.0,
    weight_decay: float = 1e-4,
    clip_norm: float = 0.0,
    optimiser: str = "adamw",
    amp: bool = True,
    accumulate: int = 1,
    frozen_norm: bool = False,
    seed: int = 0,
    team: Team = ALONE,
    state: dict | None = None,
    save: Callable[[dict], None] | None = None,
    progress=None,
    watch: Callable[[int, nn.Module], None] | None = None,
) -> list[dict[str, float]]:
    """Train a network with a `head` and a `backbone`; returns the mean loss parts of every epoch.

    batches(epoch) -> an iterable of batches of known length, drawn from the epoch's own seed, so a
    run resumed from `state` (what `save` was last given) ends in the same weights. optimiser: see
    `new_optimiser`. accumulate: in how many pieces a batch goes through the network (small cards);
    frozen_norm: batch normalisation keeps its running statistics, so that neither pieces nor
    processes change a gradient; seed: dropout's, with the epoch; team: the processes that share
    each batch. `watch` is called after every epoch: maps through time. Raises FloatingPointError
    when the loss diverges.
    """
    device = next(model.parameters()).device
    stepper = new_optimiser(model, optimiser, lr, head_lr_factor, weight_decay)
    objects = {"model": model, "optimiser": stepper}
    start, history = 0, []
    if state:
        start, history = state["epoch"], state["history"]
        for name, one in objects.items():
            one.load_state_dict(state[name])
    for epoch in range(start, epochs):
        torch.manual_seed(seed * 100_003 + epoch)
        model.train()
        if frozen_norm:
            freeze_norm(model.backbone)
        sums, todo = {}, batches(epoch)
        for i, batch in enumerate(prefetch(todo, device)):
            done = (epoch + i / len(todo)) / epochs
            for group in stepper.param_groups:
                group["lr"] = group["first_lr"] * DECAYS[optimiser](epoch / epochs, done)
            stepper.zero_grad()
            values: dict[str, float] = {}
            for piece, weight in pieces(batch, accumulate, team):
                with autocast(device, amp):
                    value, parts = loss(model, piece, done)
                (weight * team.size * value).backward()  # times size: the team takes the mean
                for name, part in {"loss": value, **parts}.items():
                    values[name] = values.get(name, 0.0) + weight * part.item()
            if not math.isfinite(values["loss"]):
                raise FloatingPointError(
                    f"the loss is {values['loss']} in epoch {epoch + 1}: lower the learning rate"
                )
            team.average(p.grad for p in model.parameters() if p.grad is not None)
            if clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            stepper.step()
            for name, part in values.items():
                sums[name] = sums.get(name, 0.0) + part / len(todo)
            if progress:
                progress(loss=values["loss"])
        team.average(b for b in model.buffers() if b.is_floating_point())
        history.append(team.total(sums))
        if watch and team.rank == 0:
            watch(epoch + 1, model)
        if save and team.rank == 0 and epoch + 1 < epochs:
            states = {name: one.state_dict() for name, one in objects.items()}
            save({"epoch": epoch + 1, "history": history, **states})
    model.eval()
    return history


DECAYS = {  # (share of epochs done, share of steps done) -> factor of the learning rate
    "adamw": lambda epochs, steps: (1 + math.cos(math.pi * epochs)) / 2,
    "sgd": lambda epochs, steps: (1 - steps) ** 0.9,
}


def new_optimiser(
    model: nn.Module, name: str, lr: float, head_lr_factor: float, weight_decay: float
) -> torch.optim.Optimizer:
    """ "adamw" (with a cosine decay, epoch by epoch), or what CAM papers train with: "sgd" with
    Nesterov momentum 0.9 and polynomial decay. Raises ValueError for others."""
    if name not in DECAYS:
        raise ValueError(f"optimiser must be one of {sorted(DECAYS)}, not {name!r}")
    head = list(model.head.parameters())
    body = [p for p in model.parameters() if all(p is not h for h in head)]
    groups = [{"params": body, "first_lr": lr}, {"params": head, "first_lr": lr * head_lr_factor}]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr, weight_decay=weight_decay, fused=True)
    return torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)


def freeze_norm(model: nn.Module) -> None:
    """Batch normalisation by running statistics, which stay as they are."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def pieces(batch: Batch, accumulate: int, team: Team) -> Iterator[tuple[Batch, float]]:
    """(piece, its share of the batch's pictures) of this process: the weights of all pieces of all
    processes add up to 1. A process that the batch is too small for gets a piece of weight 0."""
    if team.size == 1 and accumulate == 1:
        yield batch, 1.0
        return
    count = len(batch[0])
    mine = torch.arange(team.rank, count, team.size)
    weights = len(mine) / count
    if not len(mine):
        mine, weights = torch.zeros(1, dtype=torch.long), 0.0
    for some in mine.chunk(accumulate):
        here = some.to(batch[0].device)
        images, *others = (None if t is None else t[here] for t in batch)
        images = images.contiguous(memory_format=torch.channels_last)
        yield (images, *others), weights * len(some) / len(mine)


def prefetch(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on the device, pictures channels last; on a GPU the next one is read meanwhile."""

    def ready(batch: Batch) -> Batch:
        pin = device.type == "cuda"
        images, *others = (t.pin_memory() if pin and t is not None else t for t in batch)
        images = images.to(device, non_blocking=True)
        rest = (None if t is None else t.to(device, non_blocking=True) for t in others)
        return images.contiguous(memory_format=torch.channels_last), *rest

    if device.type != "cuda":
        yield from map(ready, batches)
        return
    todo = iter(batches)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, todo, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, todo, None)
            yield ready(batch)
