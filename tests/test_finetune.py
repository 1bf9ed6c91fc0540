"""Finetuning teaches the class texts; the careful form leaves the image tower as it was."""

from itertools import count, islice

import pytest
import torch
from conftest import small_clip

from clims_lib import finetune
from clims_lib.clip_model import (
    clip_optimiser,
    contrastive_training_loss,
    encode_texts,
    hinge_loss,
    image_encoder,
    normalise_for_clip,
)
from clims_lib.training import train

TEXTS = ["a photo of red", "a photo of green", "a photo of blue"]


def units(pictures):
    return normalise_for_clip(pictures.float() / 255)


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

    def batches(start):
        for step in range(start, 40):
            some = torch.randperm(48, generator=torch.Generator().manual_seed(step))[:16]
            yield units(pictures[some]), [names[i % 3] for i in some.tolist()]

    model = small_clip().eval()
    optimiser, schedule = clip_optimiser(model, 40, 3e-3)
    loss = contrastive_training_loss()
    how = {"optimiser": optimiser, "schedule": schedule, "clip_norm": 1.0, "amp": False}
    train(model, loss, batches, steps=40, **how)
    return model.state_dict()


def replay(start):
    for step in count(start):
        g = torch.Generator().manual_seed(step)
        yield torch.randn((4, 3, 32, 32), generator=g), ["a cow", "a boat", "water", "two cars"]


def accuracy(model, pictures, labels):
    with torch.no_grad():
        found = image_encoder(model)(units(pictures)) @ encode_texts(model, TEXTS).T
    return float((found.argmax(1) == labels.argmax(1)).float().mean())


def test_the_text_tower_learns_and_the_image_tower_stays(colours, knowing):
    model = small_clip().eval()
    model.load_state_dict(knowing)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    seen = finetune.encode_pictures(model, colours[0], amp=False)
    tower = [p.requires_grad_(True) for p in finetune.text_parameters(model.requires_grad_(False))]
    history = train(
        model,
        finetune.hinge_training_loss(TEXTS, 0.2),
        finetune.hinge_batches(seen, colours[1], 16, 0, replay),
        steps=60,
        optimiser=torch.optim.Adam(tower, lr=1e-3),
        frozen_norm=model,
        amp=False,
    )
    losses = [step["loss"] for step in history]
    assert accuracy(model, *colours) > 0.9 and losses[-1] < losses[0]
    after = model.state_dict()
    for name in after:
        if name.startswith("visual"):
            assert torch.equal(after[name], before[name]), name
    assert not torch.equal(after["text_projection"], before["text_projection"])


@pytest.mark.parametrize("correct_shared", [True, False])
def test_the_published_recipe_trains_both_towers(colours, correct_shared):
    model = small_clip().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, weight_decay=1e-3)
    history = train(
        model,
        finetune.label_training_loss(correct_shared),
        finetune.label_batches(*colours, TEXTS, 16, 0),
        steps=20,
        optimiser=optimiser,
        schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20),
        frozen_norm=model,
        amp=False,
    )
    assert len(history) == 20
    for name in ("visual.conv1.weight", "text_projection"):
        assert not torch.equal(model.state_dict()[name], before[name])
    for name, value in before.items():  # as few pictures as these would spoil the statistics
        assert "running" not in name or torch.equal(model.state_dict()[name], value)


def test_correcting_is_the_smaller_loss_at_the_same_weights(colours):
    """Left out of each other's softmax, pairs that share a text cannot add to its denominator."""
    batch, model = next(finetune.label_batches(*colours, TEXTS, 16, 0)(0)), small_clip().eval()
    right, wrong = (
        finetune.label_training_loss(correct)(model, batch, 0.0)[0] for correct in (True, False)
    )
    assert right < wrong


def test_the_hinge_step_is_hinge_and_replay(colours):
    model = small_clip().eval()
    seen = finetune.encode_pictures(model, colours[0], amp=False)
    loss, batch = finetune.hinge_training_loss(TEXTS, 0.2), (seen[:6], colours[1][:6])
    known, captions = next(replay(0))
    found = loss(model, (*batch, known, captions), 0.0)[0]
    hinge = hinge_loss(seen[:6] @ encode_texts(model, TEXTS).T, colours[1][:6], 0.2) / 0.2
    replayed = contrastive_training_loss()(model, (known, captions), 0.0)[0]
    assert found.item() == pytest.approx((hinge + replayed).item(), rel=1e-4)


def test_a_batch_shows_pictures_with_one_of_their_texts(colours):
    pictures, labels = colours[0], colours[1].clone()
    labels[:, 0] = 1.0  # two classes for most
    for some, texts in islice(finetune.label_batches(pictures, labels, TEXTS, 8, 3)(2), 3):
        for picture, text in zip(some, texts, strict=True):
            number = int((pictures == picture).flatten(1).all(1).nonzero()[0])
            assert labels[number, TEXTS.index(text)] == 1


def test_labels_must_fit(colours):
    pictures, labels = colours
    with pytest.raises(ValueError, match="48 pictures have 47 rows of labels"):
        finetune.hinge_batches(torch.zeros(48, 32), labels[:47], 4, 0, replay)
    batch = torch.zeros(4, 32), labels[:4, :2], *next(replay(0))
    with pytest.raises(ValueError, match="labels of 2 classes, 3 texts"):
        finetune.hinge_training_loss(TEXTS, 0.2)(small_clip().eval(), batch, 0.0)
    with pytest.raises(ValueError, match="at least one class"):
        finetune.label_batches(pictures, labels * 0, TEXTS, 4, 0)


def test_crops_are_cut_where_clip_is():
    pictures, sizes = torch.zeros(6, 3, 16, 16, dtype=torch.uint8), torch.full((6, 2), 12)
    crops = finetune.Crops(sizes, 8, (0.5, 1.0), "factor", torch.device("meta"))
    how = {"sentence": lambda present: "a cow", "crops": crops}
    batches = finetune.label_batches(pictures, torch.ones(6, 2), ["a", "b"], 4, 0, **how)
    x, said = next(batches(1))
    assert x.device.type == "meta" and x.dtype == torch.uint8 and x.shape == (4, 3, 8, 8)
    assert said == ["a cow"] * 4
