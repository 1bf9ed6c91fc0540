"""Where training runs: the device, several processes side by side, or a team at one network."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from clims_lib.config import Profile


def device_of(profile: Profile) -> torch.device:
    """The profile's device; "auto" is a GPU where there is one."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(auto if profile.device == "auto" else profile.device)


def place(part: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; a GPU fetches it while it works on, from memory that stays put."""
    if part.device.type == device.type:
        return part
    return (part.pin_memory() if device.type == "cuda" else part).to(device, non_blocking=True)


class Placed(tuple):
    """A batch on a GPU; `host`: the same before it went there. Who asks a tensor for its values, of
    labels which are present, asks that one: a GPU would have to finish all else before it answers.
    """

    host: tuple

    def __new__(cls, parts: Iterable[Any], host: tuple) -> Placed:
        batch = super().__new__(cls, parts)
        batch.host = host
        return batch


def on_host(batch: tuple) -> tuple:
    """The batch whose values can be asked for at once: see `Placed`."""
    return getattr(batch, "host", batch)


def cores() -> int:
    """How many cores this process may use; where the system does not say, how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def explains_out_of_memory(device: torch.device, advice: str) -> Iterator[None]:
    """Turn a GPU's running out of memory into a RuntimeError that says which setting to lower."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RuntimeError(f"{device} has too little memory: {advice}") from error


def side_by_side(stage: Callable[[Profile, str], Path], profile: Profile, names: list[str]) -> None:
    """Run stage(profile, name) of every name, profile.jobs at a time on as many cores.

    Small networks keep one core busy, not two: two trainings of one thread each are done sooner
    than one after the other. On a GPU they take turns. What is finished stays when another fails.
    """
    jobs = 1 if device_of(profile).type == "cuda" else min(profile.jobs, cores(), len(names))
    if jobs == 1:
        for name in names:
            stage(profile, name)
        return
    quiet = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"  # their bars would overwrite each other: one bar counts them
    spawn = multiprocessing.get_context("spawn")  # forking a process with torch threads can hang
    try:
        with ProcessPoolExecutor(
            jobs, spawn, initializer=torch.set_num_threads, initargs=(cores() // jobs,)
        ) as pool:
            work = [pool.submit(stage, profile, name) for name in names]
            for future in tqdm(as_completed(work), total=len(work), desc=", ".join(names)):
                future.result()
    finally:
        os.environ.pop("TQDM_DISABLE")
        if quiet is not None:
            os.environ["TQDM_DISABLE"] = quiet


class bar:
    """A tqdm bar for the training loops' `progress(loss=...)`, going on from `done`."""

    def __init__(self, steps: int, title: str, done: int = 0):
        self.bar = tqdm(total=steps, initial=done, desc=title)

    def __enter__(self) -> Callable[..., object]:
        return lambda loss: (self.bar.update(), self.bar.set_postfix(loss=f"{loss:.3f}"))

    def __exit__(self, *_: object) -> None:
        self.bar.close()


class Team:
    """This process among those that train one network: `rank` of `size`; alone without accelerator.

    Hugging Face accelerate starts and connects them. Each takes its share of every batch, and all
    take the same step with the mean of their gradients. So the network is the one that a single
    process would train, as long as batch normalisation is frozen (`compute.frozen_norm`); otherwise
    each share is normalised by itself, as usual.
    """

    def __init__(self, accelerator: Any = None):
        self.accelerator = accelerator
        self.rank = accelerator.process_index if accelerator else 0
        self.size = accelerator.num_processes if accelerator else 1

    def share(self, step: nn.Module) -> nn.Module:
        """The module, after whose `backward` all have the mean of their gradients.

        torch adds them up in the background while backward goes on. What the module calls, and how
        often, is free: parameters that took no part anywhere have no gradient, as with one process.
        """
        if self.size == 1:
            return step
        return DistributedDataParallel(
            step, broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
        )

    def together(self, step: nn.Module, yet: bool) -> contextlib.AbstractContextManager:
        """Around forward and `backward` of what `share` gave: whether it is time for the mean, or
        each goes on adding to its own gradients."""
        return contextlib.nullcontext() if yet or self.size == 1 else step.no_sync()  # type: ignore[operator]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the team; they are of one type and device."""
        some = list(tensors)
        if self.size > 1 and some:
            mean = self.accelerator.reduce(torch.cat([t.flatten() for t in some]), "mean")
            for tensor, part in zip(some, mean.split([t.numel() for t in some]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum of a tensor over the team, where it is: no GPU is asked for a value."""
        return self.accelerator.reduce(numbers, "sum") if self.size > 1 else numbers

    def total(self, rows: list[dict[str, float]]) -> list[dict[str, float]]:
        """The sums of numbers over the team, row by row; who lacks one has nothing to add."""
        return [
            {name: sum(one.get(name, 0.0) for one in row) for name in max(row, key=len)}
            for row in zip(*self.gather(rows), strict=True)
        ]

    def gather(self, value: Any) -> list:
        """Everyone's value, in the order of ranks, for plain values and tensors on the CPU."""
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def broadcast(self, value: Any) -> Any:
        """The first one's value."""
        return self.gather(value)[0]


ALONE = Team()
