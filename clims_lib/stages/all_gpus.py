"""Train one CAM network on several GPUs, started by `accelerate launch` or from a notebook."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

from clims_lib.config import Profile
from clims_lib.devices import ALONE, Team
from clims_lib.stages.networks import train_cam


def here(profile: Profile) -> Team:
    """The team that `accelerate launch` made this process part of, or this process alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return ALONE
    from accelerate import Accelerator

    return Team(Accelerator(cpu=profile.device == "cpu"))


def train_here(profile: Profile, method: str) -> Path:
    """Train in this process, as a member of its team."""
    return train_cam(profile, method, here(profile))


def train_on_all_gpus(profile: Profile, methods: Iterable[str]) -> None:
    """From a notebook that has not used a GPU yet: train on all GPUs of this machine, one method
    after the other. With one GPU or none it does nothing; `train_cam` trains what is not there."""
    count = torch.cuda.device_count() if profile.device != "cpu" else 0
    if count < 2:
        return
    if torch.cuda.is_initialized():  # processes cannot be forked any more
        warnings.warn(
            "this process already uses a GPU, so training goes on with one: restart the "
            "kernel to use all",
            stacklevel=2,
        )
        return
    from accelerate import notebook_launcher

    for method in methods:
        notebook_launcher(train_here, (profile, method), num_processes=count)
