"""From batches to what goes through a network at once: on its device, cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from clims_lib.devices import Placed, Team, place
from clims_lib.objectives import Counted, Loss

StepBatch = tuple[Any, ...]  # pictures, labels, masks, captions, ... of a step
Weight = Any  # a number or a scalar tensor; or {part of the loss: its own}


def prefetch(batches: Iterable[StepBatch], device: torch.device) -> Iterator[StepBatch]:
    """Batches on the device; on a GPU, as `Placed`, and the next one is read meanwhile."""
    if device.type != "cuda":
        yield from batches
        return
    todo = iter(batches)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, todo, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, todo, None)
            there = (place(part, device) if torch.is_tensor(part) else part for part in batch)
            yield Placed(there, batch)


def micro_batches(
    batch: StepBatch, accumulate: int, team: Team, loss: Loss, model: nn.Module
) -> list[tuple[StepBatch, Weight]]:
    """(micro-batch, weight) of this process's share of a batch: all weights of all processes add
    up to 1.

    With these weights the gradients add up to the whole batch's. A micro-batch weighs as much as
    its share of the pictures, or of what a `Counted` loss counts; where that is a dictionary, so is
    the weight, {part of the loss: share}, and a part that nothing is counted of always weighs 1. It
    has two pictures at least while one of the model's batch norms learns: one alone may have no
    deviation. A process that the batch is too small for gets one without pictures.
    """
    if team.size == 1 and accumulate == 1:
        return [(batch, 1.0)]
    count = loss.count if isinstance(loss, Counted) else lambda some: len(some[0])
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    least = 2 if any(norm.training for norm in norms) else 1
    size = min(len(part) for part in batch if part is not None)
    number = max(1, min(accumulate, size // least))
    parts = [_cut(batch, i, number) for i in range(number)]
    whole = _of_all(count(batch), team, batch[0].device)
    return [(part, _weight(count(part), whole)) for part in parts]


def _cut(batch: StepBatch, i: int, number: int) -> StepBatch:
    """One of so many parts of a batch: of each thing in it, by its own length."""
    some = tuple(
        None if p is None else p[-(-len(p) * i // number) : -(-len(p) * (i + 1) // number)]
        for p in batch
    )
    return Placed(some, _cut(batch.host, i, number)) if isinstance(batch, Placed) else some


def _of_all(counted: Any, team: Team, device: torch.device) -> Any:
    """What all processes count, from what this one does."""
    if team.size == 1:
        return counted
    named = counted if isinstance(counted, dict) else {"": counted}
    numbers = {name: _on(n, device) for name, n in named.items() if n is not None}
    sums = team.sum(torch.stack(list(numbers.values()))).unbind()
    whole = dict(zip(numbers, sums, strict=True))
    return whole if isinstance(counted, dict) else whole[""]


def _on(number: Tensor | float, device: torch.device) -> Tensor:
    """A number where a GPU need not be waited for to add it up."""
    if torch.is_tensor(number):
        return number.to(device, torch.float32)
    return torch.full((), float(number), device=device)


def _weight(counted: Any, whole: Any) -> Weight:
    if isinstance(counted, dict):
        return {name: _weight(n, whole.get(name)) for name, n in counted.items()}
    if counted is None:
        return 1.0
    return counted / (whole.clamp(min=1) if torch.is_tensor(whole) else max(whole, 1))
