"""The stages of CCT: its network, its methods, and that VOC's profiles are its own release."""

import json
import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import interrupted_training, profile_of
from test_golden_cct import THEIR_NAMES

from clims_lib.artifacts import load_tensors, read_json, read_manifest
from clims_lib.cct_network import CCT, DECODERS
from clims_lib.config import load_profile
from clims_lib.perturbations import RELEASED
from clims_lib.stages import encoders, semi_supervised
from clims_lib.stages.methods import table_rows, trainer_of, trainers
from clims_lib.stages.segmentations import train_network
from clims_lib.stages.semi_supervised import mixed_batches, new_cct, train_cct

GOLDEN = json.loads((Path(__file__).parent / "golden" / "cct.json").read_text())
NETWORK = json.loads((Path(__file__).parent / "golden" / "network.json").read_text())
(ENCODER,) = [c["outputs"] for c in NETWORK["cases"] if c["name"] == "cct_encoder"]
VOC = ("voc2012", "voc2012_release")
FEW = ["pseudo.method=cam", "pseudo.crf=false", "device=cpu", "compute.accumulate=1"]


def test_the_network_is_the_same_for_the_same_seed_and_trains_from_nothing():
    profile = load_profile("tiny")
    state = torch.get_rng_state()
    one, two = new_cct(profile), new_cct(profile)
    assert torch.equal(state, torch.get_rng_state())  # nor is anyone else's randomness disturbed
    assert isinstance(one, CCT) and one.num_labels == len(profile.data.classes) + 1
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = new_cct(load_profile("tiny", ["seed=1"]))
    assert not torch.equal(one.main_decoder[0].weight, other.main_decoder[0].weight)


def test_a_method_that_does_not_exist():
    known = trainers(load_profile("tiny")).values()
    kinds = [t for t in known if t.section == "cct" and not t.control]
    forms = {(t.consistency, t.pseudo) for t in kinds}
    assert forms == {(a, b) for a in (False, True) for b in (False, True)} and len(kinds) == 4
    for masks in ("cam", "cam_walk"):
        assert "cct_cam" in trainers(load_profile("tiny", [f"pseudo.method={masks}"]))
    with pytest.raises(ValueError, match="no method 'cct_clim'; did you mean cct_clims"):
        train_cct(load_profile("tiny"), "cct_clim")


# ---- The release


@pytest.mark.parametrize("name", VOC)
def test_vocs_settings_are_the_releases(name):
    profile, config, facts = load_profile(name), GOLDEN["config"], GOLDEN["data_facts"]
    cct, model, args = profile.cct, config["model"], config["optimizer"]["args"]
    found = {ours: cct.auxiliary[ours] for ours in cct.auxiliary if cct.auxiliary[ours]}
    numbers = GOLDEN["auxiliary_decoders"]
    assert {THEIR_NAMES[ours]: n for ours, n in found.items()} | {"total": 30} == numbers
    assert len(cct.perturbations) == 30
    assert (cct.lr, cct.weight_decay) == (args["lr"], args["weight_decay"])
    assert cct.lr * cct.backbone_lr_factor == pytest.approx(GOLDEN["optimiser"]["lr_backbone"])
    assert (cct.base, cct.crop) == (facts["base_size"], facts["crop_size"])
    assert facts["batch"] == f"{cct.batch_labelled} labelled + {cct.batch_weak} unlabelled"
    weak = profile.data.train - profile.data.labelled
    assert f"against {math.ceil(weak / cct.batch_weak)} unlabelled" in facts["epoch_length"]
    assert cct.steps == config["trainer"]["epochs"] * math.ceil(weak / cct.batch_weak)
    assert (cct.unsupervised_weight, cct.ramp) == (config["unsupervised_w"], config["ramp_up"])
    assert cct.weak_weight_auxiliary == config["weakly_loss_w"]
    assert (cct.supervised_loss, model["sup_loss"]) == ("ce", "CE")
    assert semi_supervised.perturbation_options(profile)["i_vat"]["xi"] == model["xi"]
    options = semi_supervised.perturbation_options(profile)
    assert {name: o for name, o in options.items() if o} == RELEASED


def test_named_settings_replace_the_releases_accidents():
    mended = ["cct.vat_xi=1e-3", "cct.cutout_rule=ours"]
    options = semi_supervised.perturbation_options(load_profile("voc2012", mended))
    assert options["i_vat"] == {"form": "released", "xi": 1e-3}
    assert options["guided_cutout"] == {"rule": "ours"} and options["feature_drop"]["shared"]
    ours = semi_supervised.perturbation_options(load_profile("mini"))
    assert set(ours) == set(load_profile("mini").cct.perturbations) and not any(ours.values())


@pytest.mark.parametrize("name", VOC)
def test_vocs_network_is_the_releases_but_for_the_stem(name):
    with torch.device("meta"):
        model = new_cct(load_profile(name))
    for layer, blocks in ENCODER["blocks"].items():
        for block, fact in zip(getattr(model.backbone, layer), blocks, strict=True):
            assert block.conv2.stride[0] == fact["conv2_stride"]
            assert block.conv2.dilation[0] == fact["conv2_dilation"]
    assert all(isinstance(d, DECODERS["released"]) for d in model.auxiliary_decoders)
    rest, body = ([p.numel() for p in g["params"]] for g in model.groups(1.0))
    # a 7x7 stem of 64 channels in place of three 3x3 convolutions and of 128 channels
    theirs = 3 * 64 * 9 + 64 * 64 * 9 + 64 * 128 * 9 + 2 * (64 + 64 + 128)
    theirs += 64 * (64 + 256)  # layer1 takes 64 more channels
    assert (
        sum(body) + theirs - (3 * 64 * 49 + 2 * 64) == ENCODER["optimiser_groups_element_counts"][0]
    )
    (facts,) = [c["outputs"] for c in GOLDEN["cases"] if c["name"].startswith("decoder forward")]
    decoders = 31 * facts["facts_about_512_to_21_decoder"]["parameters"]
    assert sum(rest) - decoders == ENCODER["optimiser_groups_element_counts"][1]


def asked_for(monkeypatch, module, start):
    """What `training.train` is handed by a stage."""
    asked = {}

    def stop(model, loss, batches, **how):
        asked.update(how, model=model, loss=loss, batches=batches)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        start()
    return asked


def test_the_release_trains_by_its_own_optimiser(small_voc, monkeypatch):
    profile = profile_of(small_voc, *FEW, "compute.optimiser=adamw", "compute.frozen_norm=true")
    asked = asked_for(monkeypatch, semi_supervised, lambda: train_cct(profile, "cct_cam"))
    groups, args = asked["optimiser"].param_groups, GOLDEN["config"]["optimizer"]["args"]
    assert [g["lr"] for g in groups] == pytest.approx([args["lr"], args["lr"] / 10])
    for group in groups:
        assert group["momentum"] == args["momentum"] and not group["nesterov"]
    assert asked["frozen_norm"] is None  # all 60 batch norms train


def test_labelled_batches_come_again_until_the_weak_ones_end(small_voc):
    """data_facts, epoch_length. Of 3 labelled pictures one is left out here, as of 5 weak ones."""
    profile = profile_of(small_voc, *FEW, "data.labelled=3")
    batches = mixed_batches(profile, trainer_of(profile, "cct"), None)
    first, again, second = islice(batches(0), 3)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[2], again[2]) and first[3] is None
    assert not torch.equal(first[0], second[0])
    assert first[0].shape == first[2].shape == (2, 3, profile.cct.crop, profile.cct.crop)
    alone = mixed_batches(profile, trainer_of(profile, "supervised"), None)
    one, two = islice(alone(0), 2)  # without weak pictures an epoch is theirs
    assert not torch.equal(one[0], two[0]) and one[2] is None


@pytest.mark.parametrize("method", ["supervised", "cct", "cct_cam"])
def test_the_release_trains_and_goes_on_to_the_same_weights(small_voc, method, monkeypatch):
    settings = [*FEW, "cct.steps=3"]
    whole = profile_of(small_voc, *settings)
    first = load_tensors(train_cct(whole, method) / "weights.safetensors")
    other = profile_of(small_voc, *settings, f'outputs="{small_voc.parent}/other"')
    with interrupted_training(monkeypatch, semi_supervised, step=2):
        train_cct(other, method)
    second = load_tensors(train_cct(other, method) / "weights.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---- Where networks start


def test_starts(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(encoders, "load_imagenet", lambda *given: asked.append(given[-1]))
    monkeypatch.setattr(encoders, "load_network", lambda profile, name: new_cct(profile))
    for name, start in (("tiny", "cam"), ("tiny", "random")):
        profile = load_profile(name, [f"cct.start={start}", f"outputs={tmp_path}"])
        backbone = encoders.new_encoder(profile, "cct").backbone
        for p in backbone.parameters():
            torch.nn.init.zeros_(p)
        encoders.load_start(profile, "cct", backbone)
        assert any(bool(p.any()) for p in backbone.parameters()) == (start == "cam")
    for name, section, expected in (
        ("voc2012", "cct", "resnet50"),
        ("voc2012_release", "deeplab", "resnet101"),
    ):
        encoders.load_start(load_profile(name), section, torch.nn.Identity())
        assert asked[-1] == expected


def test_controls_are_the_same_trainings_with_other_settings(tmp_path):
    """A row's start and steps are those that the profile's settings would give."""
    where = [f"outputs={tmp_path}", f"data_root={tmp_path}/world"]
    profile = load_profile("tiny", where)
    random = load_profile("tiny", [*where, "cct.start=random"])
    scratch, plain = train_cct(profile, "supervised_scratch"), train_cct(random, "supervised")
    first, second = (load_tensors(folder / "weights.safetensors") for folder in (scratch, plain))
    assert all(torch.equal(first[name], second[name]) for name in second)
    recipe = read_manifest(scratch)["recipe"]
    assert recipe["settings"]["cct.start"] == "random" and "start" not in recipe["inputs"]
    assert not list((tmp_path / "weights").glob("cam-*"))  # nothing else was trained for it
    longer = train_cct(load_profile("tiny", [*where, "cct.start=random"]), "cct_longer")
    assert len(read_json(longer / "history.json")) == 4 * profile.cct.steps
    rows = table_rows(profile)
    controls = {"supervised_scratch", "cct_longer", "deeplab_clims_longer", "full_masks_crf"}
    assert controls < set(rows) and len(set(rows)) == len(rows)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("cct", ["cct.auxiliary.cutout=1"], "no perturbation is called 'cutout'; did you mean "
         "cct.auxiliary.guided_cutout"),
        ("cct", ["cct.start=imagenet"], "cct.start = \"imagenet\": there are weights for .*"
         "23, 3\\], not for cam.thin = 8"),
        ("deeplab_clims", ["deeplab.layers=[2, 2, 2, 2]"], "deeplab.start = \"cam\" needs .*"
         "deeplab.layers must be \\[\\] or \\[1, 1, 1, 1\\]"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_before_anything_is_trained(
    name, settings, message, tmp_path
):
    profile = load_profile("tiny", [f"outputs={tmp_path}", *settings])
    with pytest.raises(ValueError, match=message):
        train_network(profile, name)
    assert not (tmp_path / "weights").exists()
