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
from torch import Tensor
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

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the team."""
        if self.size > 1:
            for tensor in tensors:
                tensor.copy_(self.accelerator.reduce(tensor, "mean"))

    def total(self, rows: list[dict[str, float]]) -> list[dict[str, float]]:
        """The sums of numbers over the team, row by row."""
        together = zip(*self.gather(rows), strict=True)
        return [{name: sum(one[name] for one in row) for name in row[0]} for row in together]

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
