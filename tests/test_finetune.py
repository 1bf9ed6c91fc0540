"""Finetuning teaches the class texts; the careful form leaves the image tower as it was."""

import pytest
import torch

from clims_lib import finetune
from clims_lib.clip_model import (
    encode_texts,
    image_encoder,
    new_clip,
    normalise_for_clip,
    train_clip,
)

TEXTS = ["a photo of red", "a photo of green", "a photo of blue"]


def units(pictures):
    return normalise_for_clip(pictures.float() / 255)


def small():
    return new_clip(
        resolution=32,
        layers=(1, 1, 1, 1),
        width=8,
        embed_dim=32,
        text_width=64,
        text_layers=1,
        context_length=20,
        seed=0,
    ).eval()


@pytest.fixture(scope="module")
def colours():
    """48 noisy pictures, one colour channel bright, and their labels."""
    g = torch.Generator().manual_seed(0)
    labels = torch.eye(3)[torch.arange(48) % 3]
    bright = 160 * labels[:, :, None, None] + 40
    noise = 20 * torch.randn((48, 3, 32, 32), generator=g)
    return (bright + noise).clamp(0, 255).to(torch.uint8), labels


@pytest.fixture(scope="module")
def knowing(colours):
    """The state of a CLIP that knows these pictures by other names, as CLIP knows a man."""
    pictures, names = colours[0], ("crimson", "lime", "navy")

    def batch(step):
        some = torch.randperm(48, generator=torch.Generator().manual_seed(step))[:16]
        return units(pictures[some]), [names[i % 3] for i in some.tolist()]

    model = small()
    train_clip(model, batch, steps=40, lr=3e-3, amp=False)
    return model.state_dict()


def replay(step):
    g = torch.Generator().manual_seed(step)
    return torch.randn((4, 3, 32, 32), generator=g), ["a cow", "a boat", "water", "two cars"]


def accuracy(model, pictures, labels):
    with torch.no_grad():
        found = image_encoder(model)(units(pictures)) @ encode_texts(model, TEXTS).T
    return float((found.argmax(1) == labels.argmax(1)).float().mean())


def test_the_text_tower_learns_and_the_image_tower_stays(colours, knowing):
    model = small()
    model.load_state_dict(knowing)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    losses = finetune.finetune_text_tower(
        model,
        *colours,
        TEXTS,
        replay,
        steps=60,
        lr=1e-3,
        margin=0.2,
        batch_size=16,
        generator=torch.Generator().manual_seed(0),
        amp=False,
    )
    assert accuracy(model, *colours) > 0.9 and losses[-1] < losses[0]
    after = model.state_dict()
    for name in after:
        if name.startswith("visual"):
            assert torch.equal(after[name], before[name]), name
    assert not torch.equal(after["text_projection"], before["text_projection"])
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("correct_shared", [True, False])
def test_the_published_recipe_trains_both_towers(colours, correct_shared):
    model = small()
    before = model.visual.conv1.weight.clone()
    losses = finetune.finetune_both_towers(
        model,
        *colours,
        TEXTS,
        steps=20,
        lr=1e-3,
        batch_size=16,
        weight_decay=1e-3,
        correct_shared=correct_shared,
        generator=torch.Generator().manual_seed(0),
        amp=False,
    )
    assert len(losses) == 20 and all(torch.tensor(losses).isfinite())
    assert not torch.equal(model.visual.conv1.weight, before)


def test_correcting_is_the_smaller_loss_at_the_same_weights(colours):
    """Left out of each other's softmax, pairs that share a text cannot add to its denominator."""
    first = [
        finetune.finetune_both_towers(
            small(),
            *colours,
            TEXTS,
            steps=1,
            lr=0.0,
            batch_size=16,
            weight_decay=0.0,
            correct_shared=correct,
            generator=torch.Generator().manual_seed(0),
            amp=False,
        )[0]
        for correct in (True, False)
    ]
    assert first[0] < first[1]


def test_labels_must_fit(colours):
    pictures, labels = colours
    common = {"steps": 1, "lr": 1e-3, "batch_size": 4, "generator": torch.Generator()}
    with pytest.raises(ValueError, match="must be"):
        finetune.finetune_text_tower(
            small(), pictures, labels[:, :2], TEXTS, replay, margin=0.2, **common
        )
    with pytest.raises(ValueError, match="at least one class"):
        finetune.finetune_both_towers(
            small(), pictures, labels * 0, TEXTS, weight_decay=0.0, correct_shared=True, **common
        )
