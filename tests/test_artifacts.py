"""Artifacts are whole or absent, made once, and go on where they stopped."""

import hashlib
import multiprocessing
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch

from clims_lib import artifacts
from clims_lib.artifacts import (
    artifact,
    atomic_path,
    key_of,
    load_checkpoint,
    load_tensors,
    read_json,
    read_manifest,
    save_checkpoint,
    save_tensors,
    write_json,
)

RECIPE = {"lr": 0.1, "seed": 0}


@dataclass(frozen=True)
class Settings:
    lr: float
    sizes: tuple[int, ...]


def test_key_is_the_hash_of_canonical_json():
    text = b'{"lr":0.1,"seed":0}'
    assert key_of({"seed": 0, "lr": 0.1}) == hashlib.sha256(text).hexdigest()[:10]
    assert key_of(Settings(0.1, (1, 2))) == key_of({"lr": 0.1, "sizes": [1, 2]})
    assert key_of({"lr": 0.2, "seed": 0}) != key_of(RECIPE)


@pytest.mark.parametrize("recipe", [{"x": torch.zeros(2)}, {"x": float("nan")}, {"x": {1, 2}}])
def test_recipes_are_plain(recipe):
    with pytest.raises(ValueError, match="plain values"):
        key_of(recipe)


@pytest.mark.parametrize("name", ["", "a/b", "../a"])
def test_names_stay_in_the_root(tmp_path, name):
    with pytest.raises(ValueError, match="one folder name"):
        artifact(tmp_path, name, RECIPE, lambda folder: None)


def test_made_once_with_a_manifest(tmp_path):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "value.txt").write_text("42")

    first = artifact(tmp_path / "weights", "cam", RECIPE, make)
    assert artifact(tmp_path / "weights", "cam", RECIPE, make) == first
    assert len(calls) == 1 and calls[0].name.endswith(".partial") and not calls[0].exists()
    assert first.name == f"cam-{key_of(RECIPE)}"
    manifest = read_manifest(first)
    assert manifest["recipe"] == RECIPE and manifest["seconds"] >= 0 and manifest["finished"]
    assert artifact(tmp_path / "weights", "cam", RECIPE | {"seed": 1}, make) != first
    assert first.is_dir()  # the old result stays


def test_interrupted_make_gets_its_folder_again(tmp_path):
    def make(folder):
        tried = folder / "tried"
        if not tried.exists():
            tried.write_text("once")
            time.sleep(0.3)
            raise KeyboardInterrupt
        (folder / ".half.123.tmp").write_text("left by a killed writer")

    with pytest.raises(KeyboardInterrupt):
        artifact(tmp_path, "cam", RECIPE, make)
    assert not (tmp_path / f"cam-{key_of(RECIPE)}").exists()
    folder = artifact(tmp_path, "cam", RECIPE, make)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "tried"]
    assert 0.3 <= read_manifest(folder)["seconds"] < 5  # both attempts together


def test_seconds_of_a_killed_attempt_count_up_to_its_last_file(tmp_path):
    partial = tmp_path / f"cam-{key_of(RECIPE)}.partial"
    partial.mkdir()
    write_json(
        partial / "manifest.json", {"recipe": RECIPE, "seconds": 2.0, "started": time.time() - 10}
    )
    (partial / "checkpoint").write_text("written now")
    folder = artifact(tmp_path, "cam", RECIPE, lambda folder: None)
    assert read_manifest(folder)["seconds"] == pytest.approx(12, abs=1)


def _make_slowly(root):
    def make(folder):
        with open(root / "calls.txt", "a") as file:
            file.write("call\n")
        time.sleep(0.5)

    artifact(root, "cam", RECIPE, make)


def test_two_processes_make_one_artifact(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_make_slowly, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "calls.txt").read_text() == "call\n"


def test_atomic_path_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_files_of_a_stage_come_to_the_disk_together(tmp_path, monkeypatch):
    """No file waits for the disk by itself; the folder has no name before all are there."""
    calls = []
    monkeypatch.setattr(artifacts.os, "fsync", lambda file: calls.append("fsync"))
    monkeypatch.setattr(artifacts.os, "sync", lambda: calls.append(sorted(tmp_path.glob("cams*"))))

    def make(folder):
        del calls[:]  # the manifest's
        for name in "abc":
            with atomic_path(folder / name, durable=False) as temporary:
                temporary.write_text(name)
                assert not (folder / name).exists()
        assert calls == []

    folder = artifact(tmp_path, "cams", RECIPE, make)
    assert calls[-1] == [folder.with_name(f"{folder.name}.partial")]
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "c", "manifest.json"]


def test_a_name_without_content_is_made_again(tmp_path):
    """A power cut may leave one where nothing waited for the disk."""
    partial = tmp_path / f"cams-{key_of(RECIPE)}.partial"
    partial.mkdir()
    (partial / "whole").write_text("x")
    (partial / "empty").touch()
    seen = []
    artifact(tmp_path, "cams", RECIPE, lambda folder: seen.extend(folder.iterdir()))
    assert sorted(path.name for path in seen) == ["manifest.json", "whole"]


def test_json(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": [1, None, "±"], "b": Settings(0.5, (1,))})
    assert read_json(path) == {"a": [1, None, "±"], "b": {"lr": 0.5, "sizes": [1]}}
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match="x.json is not JSON"):
        read_json(path)


def test_tensors(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    tensors = {"base": base, "view": base.T, "mask": torch.tensor([1, 255], dtype=torch.uint8)}
    save_tensors(tmp_path / "x.safetensors", tensors)
    loaded = load_tensors(tmp_path / "x.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match="x.safetensors"):
        load_tensors(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError, match="y.safetensors"):
        load_tensors(tmp_path / "y.safetensors")


def _train(folder, steps, stop_at=None):
    """Ten steps of a network whose batches and dropout are random."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    objects = {"model": model, "optimizer": optimizer, "schedule": schedule, "generator": generator}
    state = load_checkpoint(folder) or {"step": 0}
    if state["step"]:
        for name, value in objects.items():
            load = value.set_state if value is generator else value.load_state_dict
            load(state[name])
        torch.set_rng_state(state["rng"])
    for step in range(state["step"], steps):
        if step == stop_at:
            raise KeyboardInterrupt
        loss = model(torch.randn(16, 4, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 2 == 1:
            save_checkpoint(folder, step + 1, rng=torch.get_rng_state(), **objects)
    save_tensors(folder / "model.safetensors", model.state_dict())


def test_interrupted_training_resumes_to_the_same_weights(tmp_path):
    whole = artifact(tmp_path, "whole", RECIPE, lambda folder: _train(folder, 10))
    for stop_at in (3, 7):
        with pytest.raises(KeyboardInterrupt):
            artifact(tmp_path, "broken", RECIPE, lambda folder, s=stop_at: _train(folder, 10, s))
    broken = artifact(tmp_path, "broken", RECIPE, lambda folder: _train(folder, 10))
    one, two = (load_tensors(folder / "model.safetensors") for folder in (whole, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not (broken / artifacts.CHECKPOINT).exists()


def test_no_checkpoint(tmp_path):
    assert load_checkpoint(tmp_path) is None


def test_checkpoints_hold_no_code(tmp_path):
    torch.save({"step": 1, "model": subprocess.Popen}, tmp_path / artifacts.CHECKPOINT)
    with pytest.raises(Exception, match="[Ww]eights"):
        load_checkpoint(tmp_path)


def test_a_killed_process_releases_its_lock(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from clims_lib.artifacts import artifact\n"
        "artifact(Path(sys.argv[1]), 'cam', {'lr': 0.1, 'seed': 0},"
        " lambda folder: print('making', flush=True) or time.sleep(60))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        text=True,
        stdout=subprocess.PIPE,
        cwd=artifacts.__file__.rsplit("/", 2)[0],
    )
    assert child.stdout.readline() == "making\n"
    child.kill()
    child.wait()
    assert artifact(tmp_path, "cam", RECIPE, lambda folder: None).is_dir()


class Member:
    """One of two threads that talk like the processes of a team."""

    box, size = [None], 2
    barrier = threading.Barrier(2, timeout=30)

    def __init__(self, rank):
        self.rank, self.heard = rank, []

    def broadcast(self, value):
        if self.rank == 0:
            self.box[0] = value
        self.barrier.wait()
        found = self.box[0]
        self.barrier.wait()
        self.heard.append(found)
        return found


@pytest.mark.parametrize("finished", [False, True], ids=["given up", "finished by the other job"])
def test_a_team_hears_from_its_first_process_while_another_job_is_at_work(
    tmp_path, monkeypatch, finished
):
    """Neither enters the work before the lock is theirs, and nobody waits in silence."""
    monkeypatch.setattr(artifacts, "SHORT", 0.1)
    folder, recipe, made = artifacts.folder_of(tmp_path, "cam", RECIPE), RECIPE, []
    team = [Member(0), Member(1)]

    def work(member):
        def make(partial):
            made.append(member.rank)
            member.broadcast("a step together")

        return artifact(tmp_path, "cam", recipe, make, team=member)

    with ThreadPoolExecutor(2) as pool:
        with artifacts._lock_of(folder):  # the other job
            running = [pool.submit(work, member) for member in team]
            time.sleep(0.5)
            assert not made and team[1].heard.count("wait") >= 2
            if finished:
                folder.mkdir()
        assert [future.result(timeout=30) for future in running] == [folder, folder]
    assert sorted(made) == ([] if finished else [0, 1])
