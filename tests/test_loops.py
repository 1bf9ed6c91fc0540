"""What every training has in common: it goes on where it was interrupted, and says it diverged."""

import math
from itertools import count

import pytest
import torch
from conftest import small_clip
from torch import nn

from clims_lib import cct, clip_model, finetune, objectives, optimisers, random_walk, training
from clims_lib.artifacts import load_checkpoint, save_checkpoint
from clims_lib.batches import MemoryBatches
from clims_lib.cct_network import CCT
from clims_lib.clip_model import load_clip
from clims_lib.config import load_profile
from clims_lib.stages import clip, semi_supervised
from clims_lib.stages.clip import finetune_clip, make_clip
from clims_lib.stages.networks import train_cam

TEXTS = ["a photo of red", "a photo of green", "a photo of blue"]
STEPS = 7


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Small(nn.Module):
    """A network with batch norm, dropout and a head."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)
        )
        self.head = nn.Conv2d(8, 3, 1, bias=False)

    def forward(self, images):
        return self.head(self.backbone(images))


def pictures():
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=seeded(0), dtype=torch.uint8)
    return images, torch.eye(3)[torch.arange(20) % 3]


def cam(seed, kind):
    model = Small()
    batches = MemoryBatches(*pictures(), None, 8, seed=0)
    assert batches.steps_per_epoch == 3
    optimiser = optimisers.new_optimiser(kind, optimisers.head_and_body(model, 1e-3, 5), 1e-3, 1e-4)
    return model, {
        "loss": objectives.area_cam_loss(area_weight=0.1),
        "batches": batches,
        "optimiser": optimiser,
        "schedule": optimisers.new_schedule(kind, optimiser, STEPS, 3),
        "steps_per_epoch": 3,
        "clip_norm": 5.0,
        "amp": True,
    }


def captions(start):
    for step in count(start):
        images = torch.randn((4, 3, 32, 32), generator=seeded(step))
        yield images, ["a cow", "a boat", "water", f"{step} cars"]


def small_clip_from_captions(seed):
    model = small_clip(seed)
    optimiser, schedule = clip_model.clip_optimiser(model, STEPS, 1e-3)
    return model, {
        "loss": clip_model.contrastive_training_loss(),
        "batches": captions,
        "optimiser": optimiser,
        "schedule": schedule,
        "clip_norm": 1.0,
    }


def hinge(seed):
    model = small_clip(seed).requires_grad_(False)
    images, labels = pictures()
    seen = finetune.encode_pictures(small_clip(0).eval(), images, amp=False)
    parameters = [p.requires_grad_(True) for p in finetune.text_parameters(model)]
    return model, {
        "loss": finetune.hinge_training_loss(TEXTS, 0.2),
        "batches": finetune.hinge_batches(seen, labels, 4, 0, captions),
        "optimiser": torch.optim.Adam(parameters, lr=1e-3, fused=True),
        "frozen_norm": model,
    }


def label_contrast(seed):
    model = small_clip(seed)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    return model, {
        "loss": finetune.label_training_loss(True),
        "batches": finetune.label_batches(*pictures(), TEXTS, 4, 0),
        "optimiser": optimiser,
        "schedule": torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS),
        "frozen_norm": model,
    }


def walk(seed):
    model = random_walk.AffinityHead([3], 8)
    places = random_walk.offsets(2)
    labels = torch.randint(0, 3, (20, 32, 32), generator=seeded(1), dtype=torch.uint8)

    def batches(start):
        for step in count(start):
            some = torch.randint(20, (4,), generator=seeded(step))
            yield pictures()[0][some], labels[some]

    return model, {
        "loss": random_walk.affinity_training_loss(lambda x: [x.float() / 255], places),
        "batches": batches,
        "optimiser": torch.optim.Adam(model.parameters(), lr=1e-3),
    }


def consistency(seed):
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8))
    model = CCT(backbone, 8, 3, 6, ("feature_noise", "dropout", "i_vat"))
    generator = seeded(0)
    optimiser = optimisers.new_optimiser("adamw", model.parameters(), 1e-3, 1e-4, fused=False)

    def batches(start):
        for step in count(start):
            x = torch.randn((2, 2, 3, 16, 16), generator=seeded(step))
            m = torch.randint(0, 3, (2, 2, 16, 16), generator=seeded(step), dtype=torch.uint8)
            yield x[0], m[0], x[1], m[1]

    return model, {
        "loss": cct.cct_training_loss(steps=STEPS, generator=generator, ramp=0.5),
        "batches": batches,
        "optimiser": optimiser,
        "schedule": optimisers.new_schedule("adamw", optimiser, STEPS),
        "generator": generator,
    }


LOOPS = {
    "cam, adamw": lambda seed: cam(seed, "adamw"),
    "cam, sgd": lambda seed: cam(seed, "sgd"),
    "clip": small_clip_from_captions,
    "hinge": hinge,
    "label contrast": label_contrast,
    "walk": walk,
    "cct": consistency,
}


def make(name, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, how = LOOPS[name](seed)
    return model, {"steps": STEPS, "amp": False} | how


@pytest.mark.parametrize("name", LOOPS)
def test_an_interrupted_training_ends_in_the_same_weights(name, tmp_path):
    model, how = make(name)
    history = training.train(model, **how)
    assert len(history) == STEPS and not model.training
    epochs = "steps_per_epoch" in how
    for stop in (1, 3, 5) if epochs else (4,):  # 3 is the end of an epoch, the others are not

        def save(state, stop=stop):
            save_checkpoint(tmp_path, **state)
            if state["step"] == stop:
                raise KeyboardInterrupt

        other, how = make(name)
        with pytest.raises(KeyboardInterrupt):
            training.train(other, **how, save=save, save_every=0.0)
        resumed, how = make(name, seed=1)  # whatever its weights were
        torch.rand(5)  # and whatever was drawn in between
        found = training.train(resumed, **how, state=load_checkpoint(tmp_path))
        assert found == history
        for key, value in model.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[key]), (stop, key)


@pytest.mark.parametrize("name", LOOPS)
def test_a_training_that_diverges_says_where(name):
    model, how = make(name)
    loss = how["loss"]

    def breaks(model, batch, progress):
        value, parts = loss(model, batch, progress)
        return (value * math.nan if progress > 0.2 else value), parts

    with pytest.raises(FloatingPointError, match="is nan in step 3 of 7: lower the learning rate"):
        training.train(model, **how | {"loss": breaks})


@pytest.mark.parametrize("name", ["clip", "hinge", "contrastive", "cct"])
def test_the_settings_of_compute_reach_every_training(name, monkeypatch, tmp_path):
    """bfloat16 only where it is wanted; CCT takes micro-batches, too."""
    settings = [f"outputs={tmp_path}", "device=cpu", "compute.full_precision=true"]
    settings += ["compute.accumulate=2", "cct.optimiser=sgd", "cct.norms=fixed"]
    if name in ("hinge", "contrastive"):
        settings.append(f"finetune.loss={name}")
    profile, asked = load_profile("tiny", settings), {}

    def stop(model, loss, batches, **how):
        asked.update(how, model=model)
        raise KeyboardInterrupt

    if name == "cct":
        train_cam(profile, "cam")
        monkeypatch.setattr(semi_supervised, "train", stop)
    elif name != "clip":
        make_clip(profile)
    monkeypatch.setattr(clip, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        if name == "cct":
            semi_supervised.train_cct(profile, "supervised")
        else:
            make_clip(profile) if name == "clip" else finetune_clip(profile)
    assert asked["amp"] is False and asked["steps"] > 0
    if name == "cct":
        assert isinstance(asked["optimiser"], torch.optim.SGD) and asked["accumulate"] == 2
        assert asked["frozen_norm"] is asked["model"].backbone


def test_the_small_clip_has_the_resolution_of_the_profiles_pictures(tmp_path):
    """The captions' scenes are drawn at 64 pixels; a CLIP of 96 is another one, and trains."""
    found = []
    for size in (64, 96):
        profile = load_profile("tiny", [f"outputs={tmp_path}", f"data.size={size}", "clip.steps=2"])
        found.append(make_clip(profile))
        assert load_clip(found[-1] / "clip.pt").visual.input_resolution == size
    assert found[0] != found[1]
