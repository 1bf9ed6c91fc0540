"""The corpus's classifiers: CLIP's tower at every fourth pixel, what captions name, the stage."""

import copy
from itertools import islice

import pytest
import torch
from conftest import interrupted_training, small_clip
from torch import nn

from clims_lib import clip_model
from clims_lib.artifacts import load_tensors
from clims_lib.config import load_profile
from clims_lib.stages import corpus
from clims_lib.stages.corpus import THINGS, NounBatches, named_things, train_on_corpus
from clims_lib.stages.methods import table_rows
from clims_lib.stages.networks import load_network
from clims_lib.stages.small_clip import CaptionBatches
from clims_lib.stages.untrained import new_network
from clims_lib.tower import ClipTower


@pytest.fixture
def tiny(tmp_path):
    where = [f"outputs={tmp_path}/out", f"data_root={tmp_path}/world"]
    return lambda *more: load_profile("tiny", [*where, *more])


def test_a_dense_tower_says_what_clips_own_says_where_that_has_a_place():
    visual = small_clip(resolution=64).visual.double()
    for norm in (m for m in visual.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    theirs = copy.deepcopy(visual).eval()
    theirs.attnpool = nn.Identity()
    tower = ClipTower(visual).eval()
    x = torch.randn(2, 3, 128, 96, dtype=torch.float64)
    with torch.no_grad():
        dense, strided = tower(x), theirs(x)  # clip's own forward
    assert dense.shape[-2:] == (32, 24) and strided.shape[-2:] == (4, 3)
    assert torch.allclose(dense[..., 4::8, 4::8], strided, atol=1e-10)
    # while it learns, it is theirs
    tower.train()
    theirs.train()
    assert torch.allclose(tower(x), theirs(x), atol=1e-10)


def test_a_dense_towers_maps_stay_in_place():
    """With kernels that only blur, a bright spot is brightest where it is."""
    tower = ClipTower(small_clip(resolution=64).visual).eval()
    for module in tower.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    x = torch.zeros(1, 3, 192, 192)
    x[..., 96:100, 80:84] = 1.0  # place (24, 20)
    with torch.no_grad():
        seen = tower(x)[0].mean(0) - tower(torch.zeros_like(x))[0].mean(0)
    places = torch.arange(48.0)
    row, column = (
        (seen.sum(1) * places).sum() / seen.sum(),
        (seen.sum(0) * places).sum() / seen.sum(),
    )
    assert row.item() == pytest.approx(24, abs=1) and column.item() == pytest.approx(20, abs=1)


def test_captions_name_things_by_any_of_their_nouns():
    said = ["a photo of a girl and a cow and rails", "nothing", "a picture of sea", "train"]
    named = [{THINGS[k] for k in row.nonzero()[:, 0].tolist()} for row in named_things(said)]
    assert named == [{"person", "cow", "railroad"}, set(), {"water"}, {"train"}]


def test_a_classifier_sees_clips_batches(tiny):
    profile = tiny()
    theirs = islice(CaptionBatches(profile, profile.clip.batch)(3), 2)
    ours = islice(NounBatches(profile)(3), 2)
    for (views, captions), (images, labels, masks) in zip(theirs, ours, strict=True):
        assert torch.allclose(clip_model.normalise_for_clip(images), views, atol=1e-5)
        assert torch.equal(labels, named_things(captions)) and masks is None
        assert len(images) == profile.clip.batch


@pytest.mark.parametrize("method", ["cam_corpus", "cam_corpus_tower"])
def test_the_heads_of_the_objects_are_kept(tiny, monkeypatch, method):
    profile = tiny()
    monkeypatch.setattr(corpus, "train", lambda *given, **how: [])  # nothing is learned
    weights = load_tensors(train_on_corpus(profile, method) / "weights.safetensors")
    fresh = new_network(profile, method, len(THINGS)).state_dict()
    for k, name in enumerate(profile.data.classes):
        assert torch.equal(weights["head.weight"][k], fresh["head.weight"][THINGS.index(name)])
    assert all(torch.equal(weights[name], fresh[name]) for name in fresh if name != "head.weight")
    with torch.no_grad():
        maps = load_network(profile, method)(torch.rand(2, 3, 64, 64))
    assert maps.shape == (2, 6, 16, 16)


def test_an_interrupted_classifier_ends_in_the_same_weights(tiny, monkeypatch, tmp_path):
    first = load_tensors(train_on_corpus(tiny(), "cam_corpus") / "weights.safetensors")
    other = tiny(f"outputs={tmp_path}/other")
    with interrupted_training(monkeypatch, corpus, step=2):
        train_on_corpus(other, "cam_corpus")
    second = load_tensors(train_on_corpus(other, "cam_corpus") / "weights.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_drawn_worlds_have_a_corpus(tiny):
    rows = {"cam_corpus", "cam_corpus_tower", "cam_corpus_train"}
    assert rows < set(table_rows(tiny()))
    assert not rows & set(table_rows(load_profile("voc2012")))
    with pytest.raises(ValueError, match="section \\[clip\\]"):
        train_on_corpus(load_profile("voc2012"), "cam_corpus")
    with pytest.raises(ValueError, match="no caption names camel"):
        camels = ['data.classes=["cow", "camel"]', 'losses.background=["cow: grass"]']
        train_on_corpus(tiny(*camels), "cam_corpus")
