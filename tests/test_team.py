"""Two processes train the network that one trains; micro-batches add up to the batch."""

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import micro_batches_of_all
from torch import nn

from clims_lib import batches, objectives, optimisers, training
from clims_lib.__main__ import main
from clims_lib.artifacts import load_tensors, read_json
from clims_lib.cam import CAMNet
from clims_lib.config import load_profile
from clims_lib.devices import ALONE
from clims_lib.stages.all_gpus import train_on_all_gpus
from clims_lib.stages.networks import train_cam
from clims_lib.stages.untrained import new_network

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("count, accumulate, size", [(8, 1, 2), (7, 3, 2), (5, 2, 3), (2, 1, 3)])
def test_micro_batches_of_all_processes_are_the_batch_once(count, accumulate, size):
    batch = torch.rand(count, 3, 4, 4), torch.arange(float(count))[:, None], None
    seen, weights, loss = [], 0.0, objectives.cam_loss()
    for parts in micro_batches_of_all(batch, accumulate, size, loss, nn.Identity()):
        for (images, labels, masks), weight in parts:
            assert masks is None and len(images) == len(labels)
            assert len(images) > 0 or len(parts) == 1 and size > count
            assert float(weight) == pytest.approx(len(images) / count)
            weights += weight
            seen += labels[:, 0].tolist()
            assert torch.equal(images, batch[0][labels[:, 0].long()])
    assert sorted(seen) == list(range(count)) and float(weights) == pytest.approx(1)


class Watched:
    """Pictures or masks that remember which of them were read."""

    def __init__(self, whole):
        self.whole, self.shape, self.read = whole, whole.shape, []

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, rows):
        self.read += rows.tolist()
        return self.whole[rows]


@pytest.mark.parametrize("size", [2, 3, 9])
def test_each_process_reads_and_cuts_its_own_pictures(size):
    """Two epochs of batches of 8, 8 and 4; of nine processes the last ones have none of these."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 16, 16), generator=g, dtype=torch.uint8)
    labels, how = torch.eye(20), {"crop": 8, "resize": (0.5, 2.0)}
    new = lambda *given, **more: batches.MemoryBatches(*given, 8, 3, **how, **more)  # noqa: E731
    whole = list(islice(new(images, labels, images[:, 0])(1), 5))
    pictures = [Watched(images) for _ in range(size)]
    shares = [
        list(islice(new(some, labels, images[:, 0], team=SimpleNamespace(rank=r, size=size))(1), 5))
        for r, some in enumerate(pictures)
    ]
    for some, mine in zip(pictures, shares, strict=True):
        assert some.read == [k for _, y, _ in mine for k in y.argmax(1).tolist()]
    for step, batch in enumerate(whole):
        for rank, mine in enumerate(shares):
            for part, own in zip(batch, mine[step], strict=True):
                assert torch.equal(part[rank::size], own) or not len(own)
        assert sum(len(mine[step][0]) for mine in shares) == len(batch[0])


def fit(accumulate, frozen_norm=True):
    torch.manual_seed(0)
    model = CAMNet(3, (1, 1, 1, 1), thin=16, stride=8)
    g = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (12, 3, 32, 32), generator=g, dtype=torch.uint8)
    labels = (torch.rand(12, 3, generator=g) < 0.5).float()
    history = training.train(
        model,
        objectives.cam_loss(),
        batches.MemoryBatches(images, labels, None, 6, 0),
        steps=4,
        steps_per_epoch=2,
        optimiser=optimisers.new_optimiser("adamw", model.parameters(), 1e-3, 1e-4),
        accumulate=accumulate,
        frozen_norm=model.backbone if frozen_norm else None,
        amp=False,
        team=ALONE,
    )
    return history, model.state_dict()


def test_accumulation_changes_nothing_but_the_memory():
    (whole, a), (parts, b) = fit(1), fit(3)
    for one, other in zip(whole, parts, strict=True):
        assert one["bce"] == pytest.approx(other["bce"], abs=1e-5)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-4)
    means = [name for name in a if name.endswith("running_mean")]
    assert means and not any(a[name].any() for name in means)  # frozen where they started
    assert any(fit(1, frozen_norm=False)[1][name].any() for name in means)


@pytest.mark.parametrize(
    "method, says",
    [
        ("cam", "raise compute.accumulate .now 1., or lower cam.batch .now 16."),
        ("puzzle_cam", "or lower puzzle.batch .* or augment.crop"),
    ],
)
def test_too_small_a_card_says_which_setting_to_lower(method, says, monkeypatch, tmp_path):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, "train", full)
    profile = load_profile("tiny", [f"outputs={tmp_path}", "device=cpu"])
    with pytest.raises(RuntimeError, match=says):
        train_cam(profile, method)


def test_a_notebook_uses_all_gpus_in_processes_of_their_own(monkeypatch):
    """Each method is launched with the notebook's own settings, overrides included."""
    asked, profile = [], load_profile("tiny", ["device=auto", "clims.epochs=3"])

    def run(words, **_):
        settings = load_profile(Path(words[words.index("--profile") + 1]))
        launched = words[words.index("--num_processes") + 1], words[words.index("train") + 1]
        asked.append((*launched, settings == profile))
        return subprocess.CompletedProcess(words, len(asked) == 3, "", "out of luck")

    monkeypatch.setattr(subprocess, "run", run)
    for gpus in (0, 1, 2):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        train_on_all_gpus(profile, ["cam", "clims"])
    assert asked == [("2", "cam", True), ("2", "clims", True)]
    train_on_all_gpus(load_profile("tiny", ["device=cpu"]), ["cam"])
    assert len(asked) == 2
    with pytest.raises(RuntimeError, match="training cam on 2 GPUs:\nout of luck"):
        train_on_all_gpus(profile, ["cam"])


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(tmp_path):
    pytest.importorskip("accelerate", reason="several processes need accelerate")
    settings = [
        "device=cpu",
        "compute.frozen_norm=true",
        "compute.full_precision=true",
        "cam.epochs=2",
        "cam.lr=1e-4",
        f"data_root={tmp_path}/data",
    ]
    one, two = ([*settings, f"outputs={tmp_path}/{name}"] for name in ("one", "two"))
    assert main(["train", "cam", "--profile", "tiny", *(w for o in one for w in ("-p", o))]) == 0
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "-m",
        "clims_lib",
        "train",
        "cam",
        "--profile",
        "tiny",
        *(w for o in two for w in ("-p", o)),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    folders = [next((tmp_path / name / "weights").glob("cam-*")) for name in ("one", "two")]
    assert folders[0].name == folders[1].name  # the same recipe, so the same key
    a, b = (load_tensors(folder / "weights.safetensors") for folder in folders)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-5)
    start = new_network(load_profile("tiny", one)).state_dict()["head.weight"]
    assert (a["head.weight"] - start).abs().max() > 1e-4  # it did learn
    first, second = (read_json(folder / "history.json") for folder in folders)
    for x, y in zip(first, second, strict=True):
        assert x["loss"] == pytest.approx(y["loss"], abs=1e-5)
