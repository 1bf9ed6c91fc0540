"""`clims plan`: what is counted on fake tensors against formulas and real runs; what it refuses."""

import json
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import torch
from conftest import interrupted_training, profile_of
from torch import nn
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler
from torch.utils.flop_counter import FlopCounterMode

from clims_lib import objectives, training
from clims_lib.__main__ import main
from clims_lib.config import load_profile
from clims_lib.costs import ARITHMETIC, GIB, GPUS, LAUNCH, Cost, counting, gpu_called
from clims_lib.data import download
from clims_lib.data.splits import split_folder
from clims_lib.results import budget, plan, readiness, steps
from clims_lib.stage import NotMade, looking_only
from clims_lib.stages.clip import learning_of_finetuning, strong_finetuning
from clims_lib.stages.fully_supervised import new_deeplab
from clims_lib.stages.networks import learning_of, train_cam
from clims_lib.stages.semi_supervised import new_cct
from clims_lib.stages.small_clip import untrained_clip
from clims_lib.stages.untrained import new_network

FULL = load_profile("voc2012")
SMALL = ["device=cpu", "cam.thin=4", 'cam.weights=""', "cam.batch=4", "augment.crop=96"]
SMALL += ["cam.crop=0", "data.size=96", "compute.full_precision=true"]


# ---- What is counted


def test_a_step_by_hand():
    """(4, 100) @ (100, 50) in float32: 2 x 4 x 100 x 50 FLOPs, and every byte read and written."""
    with counting() as counter:
        x, layer = torch.empty(4, 100), nn.Linear(100, 50)
        counter.restart()
        y = layer(x)
    assert counter.cost.work == [(2 * 4 * 100 * 50, 4 * (4 * 100 + 100 * 50 + 50 + 4 * 50))]
    assert counter.now == counter.cost.peak == 4 * (400 + 5000 + 50 + 200)
    del y, layer
    assert counter.now == 4 * 400 and counter.cost.peak == 4 * 5650


def test_what_is_slowest_decides():
    gpu, cost = GPUS["A100"], Cost(0, [(312 * 10**12, 0), (0, 2039 * 10**9), (1, 1)])
    assert cost.flops == 312 * 10**12 + 1
    assert cost.seconds(gpu) == pytest.approx(1 / ARITHMETIC + 1 / 0.75 + LAUNCH)
    with pytest.raises(ValueError, match="no figures of a GPU 'H10'; did you mean H100?"):
        gpu_called("H10")


def test_what_has_no_value_gets_an_answer():
    with counting(present=1.5) as counter:
        labels, mask = torch.empty(16, 20), torch.empty(3, 5, dtype=torch.bool)
        picture, klass = labels.nonzero(as_tuple=True)
        assert len(picture) == len(klass) == 24
        assert torch.empty(3, 5)[mask].shape == (15,) and bool(mask.any())
        assert labels.sum().item() == 1 and list(mask.unique()) == []
    assert counter.cost.flops == 0


def test_flops_and_memory_are_those_of_a_real_run():
    """A whole training step with real tensors on the CPU, by torch's own counters."""
    profile = load_profile("voc2012", SMALL)
    cost = steps.cam_step(profile, "cam")
    with profiler(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model = new_network(profile)
        batch = torch.rand(4, 3, 96, 96), torch.ones(4, 20), None
        with FlopCounterMode(display=False) as flops:
            how = learning_of(profile, "cam", model, 4, 1) | {"steps": 2, "steps_per_epoch": 2}
            training.train(model, objectives.cam_loss(), lambda start: [batch] * 2, **how)
    assert cost.flops == flops.get_total_flops() // 2
    now = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    assert cost.peak == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize("name, count", [("ViT-B/32", 151_277_313), ("RN50", 102_007_137)])
def test_clip_has_openais_sizes(name, count):
    with counting():
        model = steps.blank_clip(replace(FULL, clip_checkpoint=name))
    assert sum(p.numel() for p in model.parameters()) == count


# ---- Steps at their published sizes


def watched(monkeypatch, module):
    """What a step's network is given and gives, from the first forward pass."""
    seen, new = {}, getattr(steps, module)

    def build(*given):
        model = new(*given)

        def hook(part, given, out):
            seen.setdefault(part, (given[0].shape, given[0].dtype, out.shape, out.dtype))

        for part in (model, model.backbone.layer4):
            part.register_forward_hook(hook)
        seen["model"] = model
        return model

    monkeypatch.setattr(steps, module, build)
    return seen


def test_a_clims_step_at_full_size(monkeypatch):
    """Batch 16 of 512 x 512, maps at stride 16; features are bfloat16, parameters float32."""
    seen = watched(monkeypatch, "new_network")
    pictures, clip = [], steps.blank_clip

    def watched_clip(profile):
        model = clip(profile)
        model.visual.register_forward_pre_hook(lambda _, x: pictures.append(x[0].shape))
        return model

    monkeypatch.setattr(steps, "blank_clip", watched_clip)
    cost = steps.cam_step(load_profile("voc2012_release"), "clims")
    model = seen["model"]
    single, half = torch.float32, torch.bfloat16
    assert seen[model] == ((16, 3, 512, 512), single, (16, 20, 32, 32), half)
    assert seen[model.backbone.layer4][2:] == ((16, 2048, 32, 32), half)
    assert {p.dtype for p in model.parameters()} == {single}
    assert set(pictures) == {(2 * 24, 3, 224, 224)}  # object and rest of 1.5 classes a picture
    # every convolution, forwards and, but for the frozen stem, twice backwards; CLIP's tower
    # forwards and back
    sides = {"conv1": 256, "layer1": 128, "layer2": 64, "layer3": 32, "layer4": 32, "head": 32}
    flops = 0
    for name, part in model.named_modules():
        if isinstance(part, nn.Conv2d):
            stage = name.replace("backbone.", "").split(".")[0]
            side = sides[stage]
            if stage in ("layer2", "layer3") and name.endswith("0.conv1"):
                side *= 2  # the step is that of the 3 x 3 after it
            flops += 2 * 16 * side**2 * part.weight.numel() * (1 if stage == "conv1" else 3)
    tokens, width = 50, 768
    flops += 2 * (2 * 48 * 12 * tokens * 12 * width**2)  # twelve layers; its weights do not learn
    assert cost.flops == pytest.approx(flops, rel=0.02)
    assert 4 < cost.peak / GIB < 8


def test_a_cct_step_at_full_size(monkeypatch):
    seen = watched(monkeypatch, "new_cct")
    cost = steps.cct_step(FULL, "cct_clims")
    model, settings = seen["model"], FULL.cct
    size, crop = settings.batch_labelled, settings.crop
    side = crop // settings.stride
    assert seen[model][2:] == ((size, 21, crop, crop), torch.float32)
    assert seen[model.backbone.layer4][2:] == ((size, 2048, side, side), torch.bfloat16)
    # what backward needs of all decoders' scores at full size alone: softmaxes in float32
    scores = 4 * settings.batch_weak * 21 * crop**2 * len(model.auxiliary_decoders)
    assert scores < cost.peak < 24 * GIB
    assert steps.cct_step(FULL, "supervised").peak < cost.peak


def test_a_sections_own_crop_counts():
    """The camera-ready baseline sees 448 pixels, the rest of its network nothing else."""
    whole, own = (
        steps.cam_step(load_profile("voc2012", [f"cam.crop={n}"]), "cam").flops for n in (512, 448)
    )
    assert own / whole == pytest.approx((448 / 512) ** 2, rel=0.01)


def test_micro_batches_need_less_memory():
    whole, half = (
        steps.cam_step(load_profile("voc2012", [f"compute.accumulate={n}"]), "cam") for n in (1, 2)
    )
    assert half.peak < 0.65 * whole.peak
    assert half.flops == pytest.approx(whole.flops, rel=0.01)


def test_a_mirror_is_counted_where_one_is_looked_at():
    """DeepLab and CCT say what they see once, or once more of the mirror image."""
    how = [*SMALL, "cct.stride=8", "cct.start=random", "deeplab.start=random"]
    how += ["cct.auxiliary={}", "inference.batch=2"]
    with torch.device("meta"):
        x, forward = torch.empty(2, 3, 96, 96), []
        for new in (new_deeplab, new_cct):
            model = new(load_profile("voc2012", how)).eval()
            with torch.no_grad(), FlopCounterMode(display=False) as flops:
                model(x)
            forward.append(flops.get_total_flops())
    deeplab, cct = forward
    for flips, expected in (
        (("false", "false"), max(deeplab, cct)),
        (("true", "true"), 2 * max(deeplab, cct)),
        (("true", "false"), max(2 * deeplab, cct)),
        (("false", "true"), max(deeplab, 2 * cct)),
    ):
        mirrored = [f"{n}.flip={f}" for n, f in zip(("deeplab", "cct"), flips, strict=True)]
        assert steps.predicting_step(load_profile("voc2012", how + mirrored)).flops == expected


@pytest.mark.parametrize("loss", ["hinge", "contrastive"])
def test_finetuning_is_counted_as_it_runs(loss):
    """A whole step with real tensors on the CPU: of the hinge, no image tower learns."""
    how = ["device=cpu", "compute.full_precision=true", f"finetune.loss={loss}"]
    profile, size = load_profile("tiny", how), 8
    model, texts = untrained_clip(profile), [f"{i} cows" for i in range(8)]
    learning = learning_of_finetuning(profile, model)
    batch: tuple = (torch.zeros(size, 3, 64, 64, dtype=torch.uint8), texts)
    if loss == "hinge":
        batch = (torch.rand(size, 32), torch.eye(8, 6), torch.rand(8, 3, 64, 64), texts)
    with FlopCounterMode(display=False) as flops:
        training.train(model, batches=lambda start: [batch] * 2, **learning)
    assert learning["steps"] == 2
    assert steps.finetune_step(profile).flops == flops.get_total_flops() // 2
    visual = [p.grad is not None for p in model.visual.parameters()]
    assert not any(visual) if loss == "hinge" else all(visual)


def test_the_comparison_is_notebook_01s(bare):
    (stage,) = (s for s in plan.planned(bare) if s.name.strip() == "for comparison")
    strong = strong_finetuning(bare).finetune
    assert stage.steps == strong.steps == 100
    assert (strong.loss, strong.lr, strong.batch) == ("contrastive", 2e-3, 32)
    assert strong_finetuning(load_profile("tiny")).finetune.steps == 2


# ---- The plan


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """voc2012 on a machine that has nothing of it."""
    monkeypatch.delenv("VOC_ROOT", raising=False)
    places = ("data_root", "weights", "outputs")
    return load_profile(
        "voc2012", [f"{name}={json.dumps(f'{tmp_path}/{name}')}" for name in places]
    )


def test_steps_and_disk_are_the_published_numbers(bare):
    stages = {stage.name: stage for stage in plan.planned(bare)}
    order = ["splits", "clip", "clip_finetuned", "cam", "clims", "affinities of clims", "masks"]
    order += ["deeplab_clims", "supervised", "cct_clims", "segmentations"]
    assert [name for name in stages if name in order] == order
    assert stages["cam"].steps == 15 * 662 and stages["clims"].steps == 6_620  # 10,582 by 16
    assert stages["clip_finetuned"].steps == 20 * 662
    assert stages["splits"].disk == (10_582 + 1_449) * 4 * 512 * 512  # 12.6 GB
    assert stages["clip"].disk == 2 * 151_277_313
    maps = (10_582 + 600 + 1_449) * (1.5 * 2 * 94 * 125 + 600)
    assert stages["maps of clims"].disk == maps
    assert {budget.state_of(bare, stage) for stage in stages.values()} == {"absent"}


def test_whats_there_is_seen_and_nothing_is_made(small_voc, monkeypatch):
    profile = profile_of(small_voc, "device=cpu", "cam.batch=4")
    stages = {stage.name: stage for stage in plan.planned(profile)}
    look = lambda name: budget.state_of(profile, stages[name])  # noqa: E731
    assert look("splits") == look("cam") == "absent" and not (small_voc.parent / "out").exists()
    with looking_only(), pytest.raises(NotMade, match="train_images-.* is not made yet"):
        split_folder(profile, "train")
    split_folder(profile, "train")
    assert look("splits") == "1 of 12"
    for folder, make in stages["splits"].makes:
        assert make().name.startswith(folder.partition("/")[2])
    assert look("splits") == "finished" and look("cam") == "absent"

    with interrupted_training(monkeypatch, training, step=1):
        train_cam(profile, "cam")
    assert look("cam") == "step 1"
    train_cam(profile, "cam")
    assert look("cam") == "finished" and look("maps of cam") == "absent"
    rows = budget.budget(profile, GPUS["A100"], costs=False)
    written = sum(s.disk for s in stages.values()) - stages["splits"].disk - stages["cam"].disk
    assert budget.to_write(rows) == pytest.approx(written)


# ---- What keeps it from beginning


def test_all_that_is_missing_is_said_at_once(bare, monkeypatch, capsys):
    monkeypatch.setattr(download, "find_spec", lambda name: None)
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 10**9))
    rows = budget.budget(bare, GPUS["A100"], costs=False)
    found = [str(reason) for reason in readiness.reasons(bare, rows)]
    expected = {
        "data set": "download voc2012",
        "MATLAB": "pip install scipy",
        "CLIP": "pseudo.method=cam_walk",
        "resnet101": "clims download weights",
        "resnet50": "clims download weights",
        "1.0 GB free": "outputs=FOLDER",
    }
    for text, (part, remedy) in zip(found, expected.items(), strict=True):
        assert part in text and remedy in text
    scipy, room = readiness.reasons(bare, rows, downloads=True)  # needed all the same
    assert "MATLAB" in str(scipy) and "to come" in str(room)
    monkeypatch.setattr(download, "get_all", lambda _: pytest.fail("nothing may be fetched"))
    assert main(["download", "voc2012", "--data-root", str(bare.data_root)]) == 1
    said = capsys.readouterr().err
    assert "pip install scipy" in said and "choose another disk with --data-root" in said


def test_nothing_is_missing_where_all_is_there(small_voc):
    profile = profile_of(small_voc, "clip_checkpoint=ViT-B/32", "pseudo.method=cam_walk")
    rows = budget.budget(profile, GPUS["A100"], costs=False)
    assert readiness.reasons(profile, rows) == []  # CLIP is absent, but not needed
    other = replace(profile, pseudo=replace(profile.pseudo, method="clims"))
    (reason,) = readiness.reasons(other, rows)
    assert "clims download weights" in reason.remedy
    assert readiness.reasons(other, rows, weights=False) == []


def test_too_small_a_card_is_refused(bare, monkeypatch):
    card = namedtuple("Card", "name total_memory")("Small", 8 * GIB)
    monkeypatch.setattr(readiness, "device_of", lambda profile: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    (stage,) = (s for s in plan.planned(bare) if s.name == "puzzle_cam")
    rows = [budget.Budgeted(stage, "absent", Cost(16 * GIB), 1.0)]
    found = [str(reason) for reason in readiness.reasons(bare, rows)]
    assert "puzzle_cam needs about 18 GiB, Small has 8: -p compute.accumulate=3" in found
    assert "Small has no bfloat16: -p compute.full_precision=true" in found


@pytest.mark.slow
def test_the_command_needs_neither_data_nor_weights_nor_a_gpu(bare, capsys):
    places = [
        f"-p{n}={json.dumps(str(getattr(bare, n)))}" for n in ("data_root", "weights", "outputs")
    ]
    assert main(["plan", "--profile", "voc2012", "--gpu", "RTX 4090", *places]) == 1
    said = capsys.readouterr()
    assert "voc2012, one RTX 4090" in said.out and "estimates, not measured" in said.out
    (row,) = (line for line in said.out.splitlines() if line.startswith("clims "))
    assert row.split()[:3] == ["clims", "absent", "6,620"] and row.endswith("cam, clip_finetuned")
    assert said.err.startswith("clims plan: voc2012 cannot begin:\n  no VOC-layout data set at ")
    assert not list(bare.outputs.parent.iterdir())
    assert main(["plan", "--gpu", "TPU"]) == 1
    assert "no figures of a GPU 'TPU'" in capsys.readouterr().err
