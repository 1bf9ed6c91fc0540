"""The three forms of the random walk as stages: their labels, training, walk, masks and keys."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import profile_of

from clims_lib import irnet, random_walk, stage
from clims_lib.artifacts import load_checkpoint, load_tensors, read_json, read_manifest
from clims_lib.config import load_profile
from clims_lib.crf import refine_labels
from clims_lib.data.splits import open_split, read_images, read_sizes, subset
from clims_lib.data.voc import read_mask
from clims_lib.seeds import cam_to_mask, normalise_cam
from clims_lib.stages import sure_labels, walk, walk_released
from clims_lib.stages.cams import compute_cams, make_cams
from clims_lib.stages.grouped import groups
from clims_lib.stages.maps import network_cams, read_small
from clims_lib.stages.masks import choose_threshold, make_pseudo_masks, threshold_scores
from clims_lib.stages.networks import train_cam
from clims_lib.stages.untrained import new_network
from clims_lib.stages.walk import WALKS, form_of, load_affinity, train_affinity

RELEASED = ("affinitynet", "irnet")
GOLDEN = json.loads((Path(__file__).parent / "golden" / "irn_walk.json").read_text())


def small(root, form, *more):
    """A profile of 32 x 32 canvases on which each form trains in a second."""
    quick = ["walk.crop=32", "walk.steps=4", "walk.stride=4", "cam.batch=4", "device=cpu"]
    joint = [] if form == "ours" else ["walk.normalise=joint"]
    return profile_of(root, f"walk.form={form}", *quick, *joint, *more)


# ---- Labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", RELEASED)
def test_the_labels_are_two_masks_that_a_crf_refined(small_voc, form):
    profile = small(small_voc, form)
    folder = sure_labels.make_sure_labels(profile, "cam")
    names, chosen = open_split(profile, "train").names, subset(profile, "train", 4)
    assert {path.stem for path in folder.glob("*.png")} == {names[i] for i in chosen}
    cams = network_cams(profile, "cam", "train", 4)
    for part in groups(profile, cams, "train", chosen):
        for row, i in enumerate(part.some):
            kept = part.label[row] > 0
            maps = part.cams[row][kept].relu()
            maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-5)
            high, low = (
                refine_labels(part.images[row][None] / 255, cam_to_mask(maps, t)[None], 2)[0]
                for t in (profile.walk.high, profile.walk.low)
            )
            expected = torch.where(low == 0, 0, 255)
            expected[high > 0] = int(part.classes[kept])
            assert read_mask(folder / f"{names[i]}.png").tolist() == expected.tolist()
    read = sure_labels.read_sure_labels(profile, "cam")
    shown = sure_labels.sure_labels(profile, "cam", "train", 4)  # as notebooks look at them
    assert torch.equal(read, shown) and read.shape == (4, 32, 32)
    counts = [len(sure_labels.sure_labels(profile, "cam", "val", n)) for n in (1, 99)]
    assert counts == [1, 2]


def test_interrupted_labels_go_on(small_voc, monkeypatch):
    profile, done, write = small(small_voc, "irnet"), [], sure_labels.write_mask

    def killed(path, mask):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path.name)
        write(path, mask)

    monkeypatch.setattr(sure_labels, "write_mask", killed)
    with pytest.raises(KeyboardInterrupt):
        sure_labels.make_sure_labels(profile, "cam")
    monkeypatch.setattr(sure_labels, "write_mask", lambda p, m: (done.append(p.name), write(p, m)))
    folder = sure_labels.make_sure_labels(profile, "cam")
    assert sorted(done) == sorted(path.name for path in folder.glob("*.png"))


# ---- Training -----------------------------------------------------------------------------------


def interrupt(profile, patch, stop):
    """Kill the training of the walk when it has saved `stop` steps; all is then as before."""
    save, train = stage.save_checkpoint, walk.train

    def killed(folder, **state):
        save(folder, **state)
        if state["step"] == stop:
            raise KeyboardInterrupt

    with patch.context() as inner:
        inner.setattr(walk, "train", lambda *given, **how: train(*given, **how, save_every=0.0))
        train_cam(profile, "cam")
        inner.setattr(stage, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            train_affinity(profile, "cam")


@pytest.mark.parametrize("form", WALKS)
def test_each_form_trains_and_goes_on_to_equal_weights(small_voc, monkeypatch, form):
    whole, again = (small(small_voc, form, f"outputs={small_voc.parent / n}") for n in "ab")
    interrupt(again, monkeypatch, 2)
    (left,) = (again.outputs / "weights").glob("cam_walk-*.partial")
    assert load_checkpoint(left)["step"] == 2
    folders = [train_affinity(profile, "cam") for profile in (whole, again)]
    expected, found = (load_tensors(folder / "weights.safetensors") for folder in folders)
    assert read_json(folders[0] / "history.json") == read_json(folders[1] / "history.json")
    first = form_of(whole, "cam").new_head().state_dict()
    assert found.keys() == expected.keys() == first.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    moved = {key for key, value in first.items() if not torch.equal(value, found[key])}
    assert len(moved) > len(first) / 2


def test_irnet_learns_as_released(small_voc):
    """Rates, decay, momentum and schedule; features of the first weights, batch norms at rest."""
    profile = small(small_voc, "irnet", "walk.lr=0.1", "walk.steps=10")
    form = form_of(profile, "cam")
    head = form.new_head()
    how = WALKS["irnet"].learning(form, head)
    edge, field = how["optimiser"].param_groups
    assert [len(g["params"]) for g in (edge, field)] == [
        len(list(part.parameters())) for part in (head.edge, head.displacement)
    ]
    assert (edge["initial_lr"], field["initial_lr"]) == pytest.approx((0.1, 1.0))
    assert edge["momentum"] == edge["weight_decay"] == field["weight_decay"] == 1e-4
    assert how["schedule"].lr_lambdas[0](5) == pytest.approx(0.5**0.9)
    images, labels = next(WALKS["irnet"].batches(form)(0))
    assert images.shape == (2, 3, 32, 32) and labels.shape == (2, 8, 8)
    fresh, norms = new_network(profile).state_dict(), form.model.batch_norms()
    assert norms and not any(norm.training for norm in norms)
    how["loss"](head, (images, labels), 0.0)[0].backward()
    assert all(torch.equal(v, fresh[k]) for k, v in form.model.state_dict().items())
    radius = GOLDEN["defaults"]["CLIMS root"]["radius"]
    known = load_profile("voc2012_release").walk
    assert (known.training_radius, known.radius) == (10, radius)


def test_labels_are_reduced_to_the_middle_of_each_place(small_voc, monkeypatch):
    """As Pillow's nearest neighbour by 0.25: pixel 4 i + 2."""
    profile = small(small_voc, "irnet", "walk.resize=[1.0, 1.0]")
    ramp = torch.arange(32).byte().expand(4, 32, 32)
    monkeypatch.setattr(walk_released, "read_sure_labels", lambda *_: ramp)
    monkeypatch.setattr(walk_released, "read_sizes", lambda *_: torch.full((8, 2), 32))
    form = form_of(profile, "cam")
    _, labels = next(WALKS["irnet"].batches(form)(0))
    ways = list(range(2, 32, 4)), [31 - i for i in range(2, 32, 4)]  # as it is, or mirrored
    assert all(row in ways for row in labels[:, 0].tolist())


# ---- Walk ---------------------------------------------------------------------------------------


def test_irnet_s_walk_is_of_the_picture_alone(small_voc):
    profile = small(small_voc, "irnet")
    head, form = load_affinity(profile, "cam"), form_of(profile, "cam")
    plain, walked = (make_cams(profile, name, "val") for name in ("cam", "cam_walk"))
    sizes, images = read_sizes(profile, "val").tolist(), read_images(profile, "val").float() / 255
    assert sizes == [[24, 32], [32, 20]]
    edges = irnet.edge_map(head, form.features, images)
    for i, name in enumerate(open_split(profile, "val").names):
        h, w = (side // 4 for side in sizes[i])
        maps = read_small(profile, plain / f"{name}.npz")[:, :h, :w]
        scores = maps / (maps.amax((1, 2), keepdim=True) + 1e-5)
        settings = profile.walk
        expected = irnet.walk_to_edges(
            scores[None], edges[i : i + 1, :, :h, :w], radius=2, beta=settings.beta, times=2
        )[0]
        found = read_small(profile, walked / f"{name}.npz")[:, :h, :w]
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-2)  # kept in half precision
    assert compute_cams(profile, "cam_walk", read_images(profile, "val")).shape == (2, 20, 32, 32)


def test_affinitynet_s_walk_is_of_the_picture_alone(small_voc):
    profile = small(small_voc, "affinitynet")
    head, form = load_affinity(profile, "cam"), form_of(profile, "cam")
    plain, walked = (make_cams(profile, name, "val") for name in ("cam", "cam_walk"))
    steps, images = list(irnet.edge_paths(2)), read_images(profile, "val").float() / 255
    with torch.no_grad():
        embedding = head(form.features(images))
    for i, name in enumerate(open_split(profile, "val").names):
        h, w = (side // 4 for side in read_sizes(profile, "val")[i].tolist())
        values = random_walk.affinity(embedding[i : i + 1, :, :h, :w], steps, border=1)
        maps = read_small(profile, plain / f"{name}.npz")[:, :h, :w]
        scores = (maps / (maps.amax((1, 2), keepdim=True) + 1e-5))[None]
        expected = random_walk.random_walk(
            scores, values, steps, beta=profile.walk.beta, times=profile.walk.times
        )[0]
        found = read_small(profile, walked / f"{name}.npz")[:, :h, :w]
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("form", WALKS)
def test_borders_are_between_0_and_1(small_voc, form):
    found = walk.borders(small(small_voc, form), "cam", torch.zeros(2, 3, 32, 32).byte())
    assert found.shape == (2, 8, 8) and 0 <= found.min() and found.max() <= 1


# ---- Masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", RELEASED)
def test_released_masks_divide_by_one_maximum_and_have_one_threshold(small_voc, form):
    profile = small(small_voc, form, "walk.thresholds=[0.2]")
    assert threshold_scores(profile, "cam_walk").keys() == {"joint"}
    assert choose_threshold(profile, "cam_walk") == {"how": "joint", "threshold": 0.2}
    assert choose_threshold(profile, "cam_walk_crf") == {"how": "joint", "threshold": 0.2}
    assert choose_threshold(profile, "cam")["how"] == "max"  # before a walk each class has its own
    assert threshold_scores(profile, "full_masks").keys() == {"max", "none"}  # a sigmoid
    assert threshold_scores(profile, "full_masks_walk").keys() == {"joint"}
    masks, cams = (f(profile, "cam_walk", "val") for f in (make_pseudo_masks, make_cams))
    for part in groups(profile, cams, "val"):
        scores = part.cams / part.cams.amax((1, 2, 3), keepdim=True)
        best, winner = scores.max(1)
        expected = torch.where(best > 0.2, part.classes[winner], 0)
        for i, mask in zip(part.some, expected, strict=True):
            name = open_split(profile, "val").names[i]
            assert read_mask(masks / f"{name}.png").tolist() == mask.tolist()


@pytest.mark.parametrize("profile, case", [("voc2012", "irn default"), ("voc2012_release", "root")])
def test_the_profiles_threshold_gives_the_released_labels(profile, case):
    """Walked maps to labels, with what the two profiles say of division and threshold."""
    settings = load_profile(profile).walk
    found = [c for c in GOLDEN["cases"] if "make_sem_seg" in c["name"] and case in c["name"]]
    inputs, known = found[0]["inputs"], found[0]["outputs"]
    assert settings.thresholds == (inputs["bg_threshold"],)
    assert (settings.beta, settings.times) == (inputs["beta"], 2 ** inputs["exp_times"])
    walked = torch.tensor(known["walked_quarter"])[:, 0]
    full = F.interpolate(walked[None], scale_factor=4.0, mode="bilinear")[0]
    height, width = inputs["picture_hw"]
    scores = normalise_cam(full[:, :height, :width], torch.ones(2), settings.normalise)
    labels = torch.tensor([0] + [key + 1 for key in inputs["zero_based_class_keys"]])
    assert labels[cam_to_mask(scores, *settings.thresholds).long()].tolist() == known["label"]


# ---- Keys and settings --------------------------------------------------------------------------


def recipe(folder):
    return read_manifest(folder)["recipe"]


@pytest.mark.parametrize("form", WALKS)
def test_keys_hold_what_a_form_reads_and_no_more(small_voc, form):
    profile = small(small_voc, form)
    trained, walked = train_affinity(profile, "cam"), make_cams(profile, "cam_walk", "val")
    settings = {name for name in recipe(trained)["settings"] if name.startswith("walk.")}
    others = {
        "ours": {"crop", "resize", "weight_decay", "training_radius", "displacement_lr_factor"},
        "affinitynet": {"low", "high", "training_radius", "displacement_lr_factor"},
        "irnet": {"low", "high", "radius", "stride", "embedding"},
    }[form] | {"beta", "times", "normalise", "thresholds"}
    assert settings == {f"walk.{name}" for name in vars(profile.walk)} - {
        f"walk.{name}" for name in others
    }
    files = recipe(trained)["code"]
    assert ("irnet.py" in files) == (form != "ours")
    assert ("stages/walk_released.py" in files) == (form != "ours")
    read = {name for name in recipe(walked)["settings"] if name.startswith("walk.")}
    walking = {"walk.form", "walk.radius", "walk.beta", "walk.times"}
    assert read == walking | ({"walk.stride"} if form != "irnet" else set())


def test_keys_change_with_the_subsets_where_a_part_is_read(small_voc):
    drawn, first = (small(small_voc, "ours", f"data.subsets={how}") for how in ("drawn", "first"))
    for name, count, same in (("cam", 4, False), ("cam", 8, True), ("cam", None, True)):
        assert (
            make_cams(drawn, name, "train", count) == make_cams(first, name, "train", count)
        ) is same
    assert train_affinity(drawn, "cam") != train_affinity(first, "cam")
    assert make_cams(drawn, "cam", "val") == make_cams(first, "cam", "val")
    whole = ["walk.pictures=8", "inference.chosen_on=8", "crf.chosen_on=8"]
    drawn, first = (
        small(small_voc, "ours", *whole, f"data.subsets={how}") for how in ("drawn", "first")
    )
    assert train_affinity(drawn, "cam") == train_affinity(first, "cam")
    assert make_pseudo_masks(drawn, "cam_crf", "val") == make_pseudo_masks(first, "cam_crf", "val")


def test_thresholds_look_at_the_drawn_pictures(small_voc, monkeypatch):
    from clims_lib.stages import masks

    profile, seen = small(small_voc, "ours", "crf.chosen_on=2"), []

    def watched(profile, folder, split, chosen):
        seen.append(chosen)
        return groups(profile, folder, split, chosen)

    monkeypatch.setattr(masks, "groups", watched)
    threshold_scores(profile, "cam")
    threshold_scores(profile, "cam_crf")
    assert seen == [subset(profile, "train", 4), subset(profile, "train", 2)]
    assert set(seen[1]) < set(seen[0])
    assert len(list((profile.outputs / "cams").glob("cam_train-*"))) == 1  # they share its maps


@pytest.mark.parametrize(
    "settings, message",
    [
        (["walk.form=irn"], "walk.form = 'irn' is no choice; did you mean irnet"),
        (["walk.radius=2.5"], "whole places from 2 on, not 2.5"),
        (["walk.form=irnet", "walk.training_radius=1"], "whole places from 2 on, not 1"),
        (["walk.form=irnet", "walk.crop=66"], "multiple of 4 pixels"),
        (["walk.form=irnet", "walk.crop=16"], "at least 20 at a radius of 3 places, not 16"),
        (
            ["walk.form=affinitynet", "walk.stride=16", "walk.radius=5.0"],
            "at least 144 at a radius of 5 places, not 64",
        ),
    ],
)
def test_settings_that_no_form_can_use(settings, message):
    with pytest.raises(ValueError, match=message):
        load_profile("voc2012_smoke", settings)
    load_profile("voc2012_smoke", [*settings[1:], "walk.form=ours"])  # which does not read them
