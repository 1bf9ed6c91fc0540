"""What the stages share: the device, progress bars, and running several side by side."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm.auto import tqdm

from clims_lib.config import Profile


def device_of(profile: Profile) -> torch.device:
    """The profile's device; "auto" is a GPU where there is one."""
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(auto if profile.device == "auto" else profile.device)


@contextlib.contextmanager
def fits(device: torch.device, advice: str) -> Iterator[None]:
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
    cores = len(os.sched_getaffinity(0))
    jobs = 1 if device_of(profile).type == "cuda" else min(profile.jobs, cores, len(names))
    if jobs == 1:
        for name in names:
            stage(profile, name)
        return
    quiet = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"  # their bars would overwrite each other: one bar counts them
    spawn = multiprocessing.get_context("spawn")  # forking a process with torch threads can hang
    try:
        with ProcessPoolExecutor(
            jobs, spawn, initializer=torch.set_num_threads, initargs=(cores // jobs,)
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

    def __enter__(self):
        return lambda loss: (self.bar.update(), self.bar.set_postfix(loss=f"{loss:.3f}"))

    def __exit__(self, *_):
        self.bar.close()
