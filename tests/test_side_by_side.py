"""Trainings in several processes: each has its share of the cores, and one may fail."""

import os

import pytest
import torch

from clims_lib import devices
from clims_lib.config import load_profile


def stage(profile, name):
    if name == "bad":
        raise ValueError(f"{name} went wrong")
    folder = profile.outputs / name
    folder.mkdir(parents=True)
    (folder / "who.txt").write_text(f"{os.getpid()} {torch.get_num_threads()}")
    return folder


@pytest.fixture
def profile(tmp_path):
    return load_profile("tiny", [f"outputs={tmp_path}", "device=cpu"])


def test_two_run_in_processes_of_their_own_with_half_the_cores(profile, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    devices.side_by_side(stage, profile, ["cam", "puzzle_cam"])
    said = [(profile.outputs / n / "who.txt").read_text().split() for n in ("cam", "puzzle_cam")]
    assert str(os.getpid()) not in {said[0][0], said[1][0]}
    assert [threads for _, threads in said] == ["1", "1"]
    assert "TQDM_DISABLE" not in os.environ


def test_what_is_finished_stays_when_another_fails(profile, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(ValueError, match="bad went wrong"):
        devices.side_by_side(stage, profile, ["good", "bad"])
    assert (profile.outputs / "good" / "who.txt").is_file()


def test_one_core_takes_turns(profile, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    devices.side_by_side(stage, profile, ["cam", "clims"])
    assert (profile.outputs / "clims" / "who.txt").read_text().split()[0] == str(os.getpid())
