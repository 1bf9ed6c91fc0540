"""The two VOC profiles are the two releases, held against figures of the authors' code."""

import json
import re
from pathlib import Path

import pytest
import torch

from clims_lib import losses, prompts
from clims_lib.batches import MemoryBatches, random_crops
from clims_lib.config import load_profile
from clims_lib.optimisers import cam_optimiser, whole_batches
from clims_lib.stages.clip import finetune_clip, make_clip, texts_of
from clims_lib.stages.criterion import loss_form, loss_weights
from clims_lib.stages.methods import METHODS, activation_of
from clims_lib.stages.untrained import fresh_head, new_network

GOLDEN = Path(__file__).parent / "golden"
RANDOM = ["cam.weights="]  # ImageNet's would have to be downloaded


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


NETWORK = golden("network")
CASES = {case["name"].split(" (")[0]: case["outputs"] for case in NETWORK["cases"]}
FACTS = {name.split(" (")[0]: fact for name, fact in NETWORK["facts"].items()}
TEXTS = golden("clims_texts")
# profile, method -> its case in network.json, and its facts there
TRAININGS = [
    ("voc2012", "cam", "camera_ready_baseline", "camera_ready_baseline"),
    ("voc2012", "clims", "camera_ready_CLIMS", "camera_ready_CLIMS"),
    ("voc2012_release", "cam", "root_baseline_Net", "root_baseline"),
    ("voc2012_release", "clims", "root_CLIMS", "root_CLIMS"),
    ("voc2012", "puzzle_cam", "puzzle_classifier_mode_normal", "puzzle"),
    ("voc2012_release", "puzzle_cam", "puzzle_classifier_mode_normal", "puzzle"),
]


@pytest.mark.parametrize("name, case", [("voc2012", 0), ("voc2012_release", 1)])
def test_texts_word_for_word(name, case):
    profile, told = load_profile(name), TEXTS["cases"][case]["outputs"]
    assert texts_of(profile) == told["single_label_prompts"]
    form, classes = profile.losses, profile.data.classes
    rows = prompts.background_texts(
        classes,
        prompts.parse_background(form.background),
        profile.prompts.template,
        form.every_class,
    )
    if case == 0:
        found = {name: row for name, row in zip(classes, rows, strict=True) if row}
        assert found == told["background_texts_by_class"]
    else:
        assert rows == [told["background_texts_all_classes"]] * 20


def test_terms_weigh_and_add_up_as_released():
    for name, facts in (("voc2012", "camera_ready_CLIMS"), ("voc2012_release", "root_CLIMS")):
        profile = load_profile(name)
        weights = loss_weights(profile)
        assert list(weights) == list(losses.TERMS)
        assert list(weights.values()) == FACTS[facts]["hyper"]
        forms = loss_form(profile)["forms"]
        assert (forms.otm_btm, forms.cbs) == ("pair_mean", "pair_sum")
    camera, improved = (load_profile(name) for name in ("voc2012", "voc2012_release"))
    each = zip(camera.data.classes, loss_form(camera)["forms"].class_weights, strict=True)
    tripled = {name for name, weight in each if weight == 3}
    assert tripled == {"chair", "diningtable", "sofa"}
    assert loss_form(camera)["cbs_threshold"] is None and loss_form(camera)["forms"].clamped == ()
    assert loss_form(improved)["cbs_threshold"] == 0.26
    assert loss_form(improved)["forms"].clamped == ("otm", "btm")
    assert loss_form(improved)["forms"].class_weights == ()


@pytest.mark.parametrize("name, method, case, facts", TRAININGS)
def test_networks_norms_and_groups(name, method, case, facts):
    """Which parameters there are, which train, in which group, and which batch norms move."""
    profile, told, fact = load_profile(name, RANDOM), CASES[case], FACTS[facts]
    with torch.device("meta"):  # no numbers: a ResNet-50 takes its time to draw them
        model = new_network(profile, method).train()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == told["batch_norm_layers"]
    assert (
        sum(norm.training for norm in norms)
        == (told["batch_norm_layers_using_batch_statistics_in_training"])
    )
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(sizes.values()) == told["parameters_total"]
    still = {n for n, p in model.named_parameters() if not p.requires_grad}
    frozen = {n.removeprefix("backbone.") for n in still if not affine_of_norm(n, model)}
    stem = set(told["frozen_parameters_requires_grad_false"])  # bn1's and conv1's, or nothing
    if method != "puzzle_cam":  # [compute] frozen_stages speaks of CLIMS and its baseline
        assert frozen == {n for n in stem if n == "conv1.weight"}
        never = told["batch_norm_layers_whose_affine_is_never_updated"]
        fixed = sum(not norm.weight.requires_grad for norm in norms)
        assert fixed == never + len(stem) // 3

    section = getattr(profile, METHODS[method].section)
    kind = profile.puzzle.optimiser if method == "puzzle_cam" else profile.compute.optimiser
    optimiser, _ = cam_optimiser(
        kind,
        model,
        section.lr,
        section.head_lr_factor,
        section.weight_decay,
        steps=100,
        steps_per_epoch=10,
        decay=100,
    )
    factors = {1.0: 0, 10.0: 2} if method != "puzzle_cam" else {1.0: 0, 2.0: 1, 10.0: 2, 20.0: 3}
    counts = [0, 0, 0, 0]
    for group in optimiser.param_groups:
        assert group["momentum"] == pytest.approx(1e-4)  # the accident, as released
        place = factors[round(group["initial_lr"] / section.lr, 6)]
        for p in group["params"]:
            counts[place] += p.numel() * (p.requires_grad or affine_frozen(told))
        biases = method == "puzzle_cam" and place % 2
        assert group["weight_decay"] == (0.0 if biases else section.weight_decay)
    wanted = told["optimiser_groups_element_counts"]
    wanted = [wanted[0], 0, wanted[1], 0] if len(wanted) == 2 else wanted
    if method != "puzzle_cam" or profile.compute.frozen_stages == 0:
        assert counts == wanted
    assert section.batch == fact["batch"] and section.epochs == fact["epochs"]
    assert section.lr == fact["lr"]


def affine_of_norm(name, model):
    module = model.get_submodule(name.rpartition(".")[0])
    return isinstance(module, torch.nn.BatchNorm2d)


def affine_frozen(told):
    """The improved release lists the frozen stem in its group; it has no gradient there."""
    return bool(told["frozen_parameters_requires_grad_false"])


@pytest.mark.parametrize("name, method, case, facts", TRAININGS[:4])
def test_crops_decay_and_the_last_batch(name, method, case, facts):
    profile, fact = load_profile(name, RANDOM), FACTS[facts]
    section = getattr(profile, METHODS[method].section)
    assert (section.crop or profile.augment.crop) == fact["crop"]
    assert list(profile.augment.resize) == fact["resize_long"]
    assert profile.augment.resize_of == "longer_side"
    assert profile.augment.drop_last == fact.get("drop_last", profile.augment.drop_last)
    decay = whole_batches(profile.data.train, section.batch, section.epochs)
    assert str(decay) in fact["max_step"].split(",")[0]
    few, drop = torch.zeros(10_582, 3, 1, 1, dtype=torch.uint8), profile.augment.drop_last
    batches = MemoryBatches(few, torch.zeros(len(few), 1), None, 16, 0, drop_last=drop)
    said = re.findall(r"(\d+) iterations", fact["max_step"])  # where they are not the decay's
    assert batches.steps_per_epoch * section.epochs == (int(said[0]) if said else decay)
    small = load_profile(name, [*RANDOM, "cam.thin=16", "cam.layers=[1, 1, 1, 1]"])
    mean = new_network(small, method).mean.flatten()[0].item()
    assert mean == pytest.approx(0.48145466 if "CLIP" in fact["normalisation"][:5] else 0.485)


def test_maps_are_relu_of_scores_and_heads_begin_where_they_did():
    for name in ("voc2012", "voc2012_release"):
        profile = load_profile(name, RANDOM)
        assert activation_of(profile, "clims") == "relu"
        assert set(profile.inference.scales) == {0.5, 1.0, 1.5, 2.0} and profile.inference.flip
    assert fresh_head(load_profile("voc2012"), "clims")  # camera-ready: fc is dropped
    assert not fresh_head(load_profile("voc2012_release"), "clims")  # strict, classifier included
    assert activation_of(load_profile("mini"), "clims") == "sigmoid"


def test_finetuning_as_camera_ready_and_none_at_all(monkeypatch):
    told, how = TEXTS["finetuning_camera_ready"], load_profile("voc2012").finetune
    assert (how.batch, how.lr, how.weight_decay, how.crop) == (
        told["batch"],
        told["lr"],
        told["weight_decay"],
        told["crop"],
    )
    assert how.steps == told["epochs"] * 662  # of 10,582 pictures, 16 at a time
    assert (how.texts, how.directions, how.correct_shared) == ("all_labels", "sum", False)
    made = Path("clip")
    monkeypatch.setattr("clims_lib.stages.clip.make_clip", lambda profile: made)
    assert finetune_clip(load_profile("voc2012_release")) == made != make_clip


@pytest.mark.parametrize("example", NETWORK["resize_examples"], ids=str)
def test_the_longer_side_gets_the_drawn_length(example):
    """A crop of one object's edges shows how far a picture was scaled."""
    height, width = example["picture_hw"]
    drawn, canvas, crop = example["drawn_long_side"], 512, 700
    image = torch.zeros(1, 3, canvas, canvas)
    image[..., :height, :width] = 1
    low, high = 320, 640
    windows = torch.tensor([[(drawn - low + 0.5) / (high + 1 - low), 0.5, 0.5]])
    cut, _ = random_crops(
        image,
        None,
        torch.tensor([[height, width]]),
        windows,
        crop=crop,
        resize=(low, high),
        resize_of="longer_side",
    )
    seen = cut[0, 0] > 0.75
    found = [int(seen.any(1).sum()), int(seen.any(0).sum())]
    assert all(abs(a - b) <= 1 for a, b in zip(found, example["camera_ready_hw"], strict=True))


@pytest.mark.parametrize(
    "change, message",
    [
        ("clims.head=botleneck", "clims.head = 'botleneck' is no choice; did you mean bottleneck"),
        ("prompts.words=improve", "did you mean improved"),
        ("losses.cbs=pair_mum", "did you mean pair_sum"),
        ("cam.norms=statistic_only", "did you mean statistics_only"),
        ("compute.optimiser=release_sgd", "did you mean released_sgd"),
    ],
)
def test_choices_name_the_nearest(change, message):
    with pytest.raises(ValueError, match=message):
        load_profile("voc2012", [change])
