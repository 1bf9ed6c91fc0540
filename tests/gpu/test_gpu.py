"""What only a GPU can show: precisions, layouts, repeatability, memory. Skipped without one."""

import os
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, small_clip

from clims_lib import clip_model, objectives, optimisers, training
from clims_lib.artifacts import load_tensors
from clims_lib.batches import MemoryBatches
from clims_lib.cam import CAMNet
from clims_lib.clip_model import load_clip, save_clip
from clims_lib.config import load_profile
from clims_lib.costs import GIB
from clims_lib.results import steps
from clims_lib.stages.networks import train_cam

GPU = os.environ.get("CLIMS_TEST_DEVICE", "cuda")  # "cpu" tries the tests themselves
pytestmark = pytest.mark.skipif(
    GPU == "cuda" and not torch.cuda.is_available(), reason="no GPU here"
)


def pictures(count=24, side=64):
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), generator=g, dtype=torch.uint8)
    return images, torch.eye(6)[torch.arange(count) % 6]


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = CAMNet(6, (1, 1, 1, 1), thin=4, stride=8)
    return net.to(GPU).to(memory_format=torch.channels_last)


def fit(model, loss=None, count=6, **more):
    images, labels = pictures()
    batches = MemoryBatches(images, labels, None, 8, 0, crop=48, resize=(0.5, 1.5), device=GPU)
    optimiser = optimisers.new_optimiser("sgd", model.parameters(), 1e-2, 1e-4)
    loss = loss or objectives.area_cam_loss(area_weight=0.1)
    return training.train(model, loss, batches, steps=count, optimiser=optimiser, **more)


def test_pictures_are_cut_on_the_gpu_as_on_the_cpu():
    images, labels = pictures()
    masks = images[:, 0] % 7
    how = {"seed": 0, "crop": 48, "resize": (0.5, 1.5)}
    here, there = (
        next(iter(MemoryBatches(images, labels, masks, 8, device=d, **how)(2)))
        for d in ("cpu", GPU)
    )
    assert there[0].device.type == there[2].device.type == GPU
    assert there[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(there[0].cpu(), here[0], atol=1e-4, rtol=0)
    assert (there[2].cpu() == here[2]).float().mean() > 0.999  # ties between two pixels


def test_batches_read_ahead_arrive_in_order():
    images, labels = pictures()
    batches = MemoryBatches(images, labels, None, 8, 0, device=GPU)
    ahead = training.prefetch(batches(0), torch.device(GPU))
    for (x, y, m), (u, v, _), _ in zip(ahead, batches(0), range(7), strict=False):
        assert m is None and torch.equal(x, u) and torch.equal(y.cpu(), v)
        assert x.device.type == y.device.type == GPU


@pytest.mark.parametrize("amp", [True, False])
def test_autocast_is_bfloat16_and_what_learns_is_float32(amp):
    model, seen = network(), []
    model.backbone.layer4.register_forward_hook(lambda *a: seen.append(a[2]))
    losses = []

    def loss(*given):
        value, parts = objectives.area_cam_loss(area_weight=0.1)(*given)
        losses.append(value.dtype)
        return value, parts

    fit(model, loss, 2, amp=amp)
    assert {x.dtype for x in seen} == {torch.bfloat16 if amp else torch.float32}
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
    assert set(losses) == {torch.float32}
    for p in model.parameters():
        assert p.dtype == p.grad.dtype == torch.float32
        assert p.ndim < 4 or p.is_contiguous(memory_format=torch.channels_last)


def test_clims_asks_clip_in_bfloat16_and_takes_logarithms_in_float32():
    clip, texts = small_clip(resolution=64).to(GPU).eval().requires_grad_(False), torch.rand(6, 32)
    texts = torch.nn.functional.normalize(texts, dim=-1).to(GPU)
    encode, seen = clip_model.image_encoder(clip), []

    def watched(images):
        seen.append(encode(images))
        return seen[-1]

    weights = {"otm": 10.0, "btm": 24.0, "cbs": 1.0, "reg": 0.2}
    loss = objectives.clims_training_loss(watched, texts, texts[:, None], size=64, weights=weights)
    history = fit(network(), loss, 2)
    assert {x.dtype for x in seen} == {torch.float32} and history[0]["loss"] > 0


def test_clip_is_read_on_the_gpu_as_on_the_cpu(tmp_path):
    """clip.load keeps half precision on a GPU: the weights are the file's, and learn as float32."""
    save_clip(small_clip(), tmp_path / "clip.pt")
    here, there = (load_clip(tmp_path / "clip.pt", device) for device in ("cpu", GPU))
    for (name, a), b in zip(here.named_parameters(), there.parameters(), strict=True):
        assert b.dtype == torch.float32 and b.device.type == GPU, name
        assert torch.equal(a, b.cpu()), name
    x = torch.rand(4, 3, 32, 32)
    seen = [clip_model.image_encoder(m)(x.to(d)).cpu() for m, d in ((here, "cpu"), (there, GPU))]
    assert torch.nn.functional.cosine_similarity(*seen).min() > 0.999


def test_two_runs_are_one(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    one, other = network(), network()
    assert fit(one) == fit(other)
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_one_process_of_accelerate_trains_the_same_network(tmp_path):
    pytest.importorskip("accelerate", reason="several processes need accelerate")
    settings = [f"device={GPU}", "cam.epochs=1", "data.train=64", f"data_root={tmp_path}/data"]
    profile = load_profile("tiny", [*settings, f"outputs={tmp_path}/one"])
    alone = train_cam(profile, "cam")
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", *["--cpu"] * (GPU == "cpu")]
    words = ["-m", "clims_lib", "train", "cam", "--profile", "tiny"]
    words += [w for s in [*settings, f"outputs={tmp_path}/two"] for w in ("-p", s)]
    call = [sys.executable, *launch, *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (other,) = (tmp_path / "two" / "weights").glob("cam-*")
    assert other.name == alone.name
    one, two = (load_tensors(folder / "weights.safetensors") for folder in (alone, other))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-3, rtol=1e-2)


@contextmanager
def for_real():
    """In place of steps.dry_run: the same step, with tensors that are there."""
    with torch.device(GPU):
        yield SimpleNamespace(restart=lambda: None, cost=None)


STEPS = {
    "cam": lambda profile: steps.cam_step(profile, "cam"),
    "clims": lambda profile: steps.cam_step(profile, "clims"),
    "deeplab": lambda profile: steps.deeplab_step(profile),
    "supervised": lambda profile: steps.cct_step(profile, "supervised"),
    "cct_clims": lambda profile: steps.cct_step(profile, "cct_clims"),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_plan_knows_the_peak_of_memory(name, monkeypatch):
    profile = load_profile("voc2012")
    planned = STEPS[name](profile).peak
    if GPU == "cuda" and torch.cuda.mem_get_info()[0] < 1.2 * planned + 2 * GIB:
        pytest.skip(f"{planned / GIB:.0f} GiB are not free")

    def labels(profile, size):  # as many as the plan takes for granted
        found = torch.zeros(size, len(profile.data.classes))
        found[:, 0] = found[: size // 2, 1] = 1
        return found

    monkeypatch.setattr(steps, "dry_run", for_real)
    monkeypatch.setattr(steps, "some_labels", labels)
    monkeypatch.setattr(torch, "empty", torch.ones)  # what was never written may be NaN
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    STEPS[name](profile)
    assert torch.cuda.max_memory_allocated() - before == pytest.approx(planned, rel=0.1)
