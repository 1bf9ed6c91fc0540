"""The small CLIP is a real one: its class, its loader, its tokens, its arithmetic."""

import math
import re

import clip
import pytest
import torch
import torch.nn.functional as F
from clip.model import CLIP
from conftest import small_clip

from clims_lib.clip_model import (
    CLIP_MEAN,
    CLIP_STD,
    clip_optimiser,
    contrastive_training_loss,
    encode_texts,
    image_encoder,
    load_clip,
    normalise_for_clip,
    save_clip,
    tokenize,
)


def batch(step):
    g = torch.Generator().manual_seed(step)
    return torch.randn((4, 3, 32, 32), generator=g), ["a cow", "a boat", "water", f"{step} cars"]


@pytest.fixture
def saved(tmp_path):
    save_clip(small_clip(), tmp_path / "clip.pt")
    return tmp_path / "clip.pt"


def test_clip_load_reads_what_was_saved(saved):
    model, _ = clip.load(str(saved), device="cpu")
    assert isinstance(model, CLIP)
    exact = re.compile(r"(bn|ln_)|downsample\.1|embedding|logit_scale")  # as in OpenAI's files
    for name, tensor in small_clip().state_dict().items():
        rounds = tensor.is_floating_point() and not exact.search(name)
        wanted = tensor.half().float() if rounds else tensor
        assert torch.equal(model.state_dict()[name], wanted), name
    assert saved.stat().st_size < 20 * 2**20
    state = torch.load(saved, weights_only=True)  # a plain state dict: nothing in it can run code
    half = {name for name, tensor in state.items() if tensor.dtype == torch.half}
    assert half == {n for n, t in state.items() if t.is_floating_point() and not exact.search(n)}


def test_saving_leaves_the_model_as_it_was(tmp_path):
    model = small_clip()
    save_clip(model, tmp_path / "clip.pt")
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_features_are_clips_own(saved):
    model = load_clip(saved)
    pictures, texts = torch.rand(2, 3, 32, 32), ["a photo of person", "railroad"]
    logits, _ = model(normalise_for_clip(pictures), clip.tokenize(texts, context_length=20))
    ours = image_encoder(model)(normalise_for_clip(pictures)) @ encode_texts(model, texts).T
    torch.testing.assert_close(model.logit_scale.exp() * ours, logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(tokenize(model, texts), clip.tokenize(texts, context_length=20).long())
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_zero_in_clips_units_is_the_mean_colour():
    mean = torch.tensor(CLIP_MEAN).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert normalise_for_clip(mean).abs().max() == 0
    step = normalise_for_clip(mean + torch.tensor(CLIP_STD).view(1, 3, 1, 1))
    torch.testing.assert_close(step, torch.ones(1, 3, 2, 2))


def test_other_sizes_are_resized(saved):
    assert image_encoder(load_clip(saved))(torch.zeros(2, 3, 50, 70)).shape == (2, 32)


def test_bad_names_and_shapes_are_refused(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match="ViT-B/32"):
        load_clip(tmp_path / "absent.pt")
    (tmp_path / "junk.pt").write_bytes(b"no weights")
    torch.save({"conv1.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "other.pt")
    torch.save([1], tmp_path / "list.pt")
    for name in ("junk.pt", "other.pt", "list.pt"):
        with pytest.raises(ValueError, match=f"{name} holds no state dict of a CLIP"):
            load_clip(tmp_path / name)
    with pytest.raises(ValueError, match="no texts"):
        tokenize(load_clip(saved), [])
    with pytest.raises(ValueError, match="multiple of 32"):
        small_clip(resolution=30)


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = small_clip(1), small_clip(1), small_clip(2)
    assert torch.equal(torch.get_rng_state(), before)
    weight = lambda m: m.visual.conv1.weight  # noqa: E731
    assert torch.equal(weight(one), weight(same)) and not torch.equal(weight(one), weight(other))


def test_a_training_step_is_the_contrastive_loss_of_both_towers():
    model, (images, texts) = small_clip().train(), batch(0)
    loss, parts = contrastive_training_loss()(model, (images, texts), 0.0)
    seen, said = model.encode_image(images), model.encode_text(tokenize(model, texts))
    logits = model.logit_scale.exp() * F.normalize(seen, dim=-1) @ F.normalize(said, dim=-1).T
    right = torch.arange(4)
    by_hand = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-4) and parts == {}


def test_learning_rates_warm_up_and_fall():
    optimiser, schedule = clip_optimiser(small_clip(), steps=40, lr=0.1)
    for step in range(40):
        rate = 0.1 * min((step + 1) / 2, 0.5 * (1 + math.cos(math.pi * step / 40)))
        assert [group["lr"] for group in optimiser.param_groups] == [rate, rate]
        optimiser.step()
        schedule.step()
    for group in optimiser.param_groups:  # matrices alone decay
        assert all((p.ndim >= 2) == (group["weight_decay"] > 0) for p in group["params"])
