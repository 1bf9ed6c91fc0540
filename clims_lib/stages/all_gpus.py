"""Train one CAM network on several GPUs, started by `accelerate launch` or from a notebook."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch

from clims_lib.config import ROOT, Profile
from clims_lib.devices import ALONE, Team
from clims_lib.stages.networks import train_cam


def here(profile: Profile) -> Team:
    """The team that `accelerate launch` made this process part of, or this process alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return ALONE
    from accelerate import Accelerator

    # of 1x1 convolutions, whose strides can be written in two ways
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    return Team(Accelerator(cpu=profile.device == "cpu"))


def train_here(profile: Profile, method: str) -> Path:
    """Train in this process, as a member of its team."""
    return train_cam(profile, method, here(profile))


def train_on_all_gpus(profile: Profile, methods: Iterable[str]) -> None:
    """From a notebook: train on all GPUs of this machine, one method after the other.

    Processes of their own do it, so it does not matter what this one has used. With one GPU or
    none it does nothing; `train_cam` trains what is not there. Raises RuntimeError with the last
    lines of what a process said when it fails.
    """
    count = torch.cuda.device_count() if profile.device != "cpu" else 0
    if count < 2:
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "profile.toml"
        settings.write_text(repr(profile), encoding="utf-8")
        for method in methods:
            launch = ["-m", "accelerate.commands.launch", "--num_processes", str(count)]
            train = ["-m", "clims_lib", "train", method, "--profile", str(settings)]
            call = subprocess.run(
                [sys.executable, *launch, *train], cwd=ROOT, capture_output=True, text=True
            )
            if call.returncode:
                raise RuntimeError(f"training {method} on {count} GPUs:\n{call.stderr[-2000:]}")
