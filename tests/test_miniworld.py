"""MiniWorld: the trap, exact masks, the same picture from the same seed, a readable folder."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from clims_lib.miniworld import (
    CLASSES,
    GROUNDS,
    HOME,
    STANDING,
    Thing,
    dataset,
    draw_scene,
    target_scene,
    web_scene,
    world,
    write_dataset,
)

SCENES = 300


@pytest.fixture(scope="module")
def target():
    return [target_scene(np.random.default_rng([1, i])) for i in range(SCENES)]


@pytest.fixture(scope="module")
def web():
    return [web_scene(np.random.default_rng([2, i])) for i in range(SCENES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "miniworld"
    return write_dataset(root, train=60, val=8, test=8, labelled=30, processes=1)


def _names(scene, is_object):
    return {thing.name for thing in scene.things if thing.is_object == is_object}


def test_trap_holds_in_the_target_world(target):
    for scene in target:
        objects, grounds = _names(scene, True), _names(scene, False)
        assert ("train" in objects) == ("railroad" in grounds)
        assert ("boat" in objects) == ("water" in grounds)
        if "cow" in objects:
            assert "grass" in grounds
        if "car" in objects:
            assert grounds & {"road", "grass"}


def test_target_world_is_balanced(target):
    has = {name: np.mean([name in _names(s, True) for s in target]) for name in CLASSES}
    assert 0.3 < has.pop("person") < 0.45
    assert all(0.1 < share < 0.25 for share in has.values()), has
    assert {sum(t.is_object for t in s.things) for s in target} == {1, 2, 3}
    assert 0.12 < np.mean([(s.mask() > 0).mean() for s in target]) < 0.25


def test_railroads_and_water_are_wide_beside_trains_and_boats(target):
    for name in ("railroad", "water"):
        index = 1 + GROUNDS.index(name)
        share = [(s.ground() == index).mean() for s in target if name in _names(s, False)]
        assert np.mean(share) > 0.3


def test_web_world_parts_objects_from_their_grounds(web):
    with_objects = [s for s in web if _names(s, True)]
    alone = [s for s in web if not _names(s, True)]
    assert 0.17 < len(alone) / len(web) < 0.33
    assert {"railroad", "water"} <= set().union(*(_names(s, False) for s in alone))
    # Sky stands behind most grounds, so aeroplanes are left out of this count.
    home = [
        any(HOME.get(n) in _names(s, False) for n in _names(s, True) - {"aeroplane"})
        for s in with_objects
    ]
    assert 0.08 < np.mean(home) < 0.32


def test_every_pixel_has_a_thing_and_every_thing_a_pixel(target, web):
    for scene in target + web:
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        assert np.array_equal(np.unique(scene.thing_map), np.arange(len(scene.things)))
        order = [thing.is_object for thing in scene.things]
        assert order == sorted(order)  # grounds first
        for i, thing in enumerate(scene.things):  # look-ups against a plain loop
            where = scene.thing_map == i
            expected = 1 + (CLASSES if thing.is_object else GROUNDS).index(thing.name)
            assert (scene.mask()[where] == (expected if thing.is_object else 0)).all()
            assert (scene.ground()[where] == (0 if thing.is_object else expected)).all()


def test_captions_never_say_person(target, web):
    nouns = {(t.name, t.noun) for s in target + web for t in s.things}
    assert {noun for name, noun in nouns if name == "person"} == {"man", "woman", "boy", "girl"}
    assert {n for name, n in nouns if name == "railroad"} == {"railroad", "railway", "rails"}
    assert {n for name, n in nouns if name == "water"} == {"water", "river", "sea", "lake"}
    assert all(type(noun) is str and noun != "person" for _, noun in nouns)


def test_two_objects_of_one_class_are_two_things():
    scene = draw_scene(np.random.default_rng(3), ["cow", "cow"], "grass")
    cows = [i for i, thing in enumerate(scene.things) if thing.name == "cow"]
    assert len(cows) == 2
    assert np.array_equal(np.isin(scene.thing_map, cows), scene.mask() == 1 + CLASSES.index("cow"))


def test_same_seed_same_picture():
    for draw in (target_scene, web_scene):
        a, b, c = (draw(np.random.default_rng(seed)) for seed in (7, 7, 8))
        assert np.array_equal(a.image, b.image) and np.array_equal(a.thing_map, b.thing_map)
        assert a.things == b.things
        assert not np.array_equal(a.image, c.image)


@pytest.mark.parametrize("ground", STANDING)
@pytest.mark.parametrize("name", CLASSES)
def test_everything_can_stand_everywhere(name, ground):
    scene = draw_scene(np.random.default_rng(0), [name], ground, size=32)
    assert scene.image.shape == (32, 32, 3) and name in _names(scene, True)
    assert ground in _names(scene, False)
    assert (scene.mask() > 0).mean() > 0.008


def test_bad_scenes_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown objects.*bicycle"):
        draw_scene(rng, ["bicycle"], "road")
    with pytest.raises(ValueError, match="unknown ground 'moon'"):
        draw_scene(rng, [], "moon")
    with pytest.raises(ValueError, match="backdrop"):
        draw_scene(rng, [], "floor", "hills")
    with pytest.raises(ValueError, match="at least 16"):
        draw_scene(rng, [], "road", size=-64)


def _read(folder, part, name):
    return np.asarray(Image.open(next((folder / part).glob(f"{name}.*"))))


def _lines(folder, path):
    return (folder / "ImageSets" / path).read_text().split("\n")[:-1]


def test_written_folder_agrees_with_the_scenes(folder):
    for i, name in enumerate(_lines(folder, "Segmentation/val.txt")):
        scene = target_scene(np.random.default_rng([0, 1, i]))
        image, mask = _read(folder, "JPEGImages", name), _read(folder, "SegmentationClass", name)
        assert np.abs(image.astype(int) - scene.image).mean() < 4
        assert np.array_equal(_read(folder, "SegmentationGround", name), scene.ground())
        border = mask == 255
        assert np.array_equal(mask[~border], scene.mask()[~border])
        assert (border & (scene.mask() == 0)).sum() > border.sum() / 2  # outside the objects
        assert (folder / "SegmentationClass" / f"{name}.png").exists()


def test_border_is_the_ring_outside_each_object():
    ground, far, near = (Thing(n, n, o) for n, o in (("sky", 0), ("car", 1), ("cow", 1)))
    thing_map = np.array(
        [[0, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 2, 2, 0], [0, 0, 0, 0, 0]], np.uint8
    )
    expected = [[0, 1, 1, 0, 0], [1, 0, 1, 1, 0], [1, 1, 0, 0, 1], [0, 1, 1, 1, 0]]
    assert dataset._outline(thing_map, (ground, far, near)).astype(int).tolist() == expected


def test_lists_and_labels_agree_with_the_masks(folder):
    names = {
        s: _lines(folder, f"Segmentation/{s}.txt")
        for s in ("train", "val", "test", "train_labelled", "train_weak")
    }
    assert [len(names[s]) for s in names] == [60, 8, 8, 30, 30]
    assert sorted(names["train_labelled"] + names["train_weak"]) == names["train"]
    for split in names:
        for k, label in enumerate(CLASSES, start=1):
            lines = [line.split() for line in _lines(folder, f"Main/{label}_{split}.txt")]
            assert [name for name, _ in lines] == names[split]
            if split == "train_labelled":
                train = _lines(folder, f"Main/{label}_train.txt")
                there = sum(line.endswith(" 1") for line in train)
                assert sum(value == "1" for _, value in lines) >= min(4, there)
            for name, value in lines:
                present = (_read(folder, "SegmentationClass", name) == k).any()
                assert value == ("1" if present else "-1")
    assert tuple((folder / "classes.txt").read_text().split()) == CLASSES
    assert tuple((folder / "grounds.txt").read_text().split()) == GROUNDS


def test_pictures_do_not_depend_on_the_number_of_processes(folder, tmp_path):
    settings = {"train": 200, "val": 1, "test": 1, "labelled": 2}
    other = write_dataset(tmp_path / "two", processes=2, **settings)
    for name in _lines(folder, "Segmentation/train.txt"):
        assert (other / "JPEGImages" / f"{name}.jpg").read_bytes() == (
            folder / "JPEGImages" / f"{name}.jpg"
        ).read_bytes()


FEW = {"train": 3, "val": 1, "test": 1, "labelled": 1}


def _in(folder):
    """What lies in a folder but locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_writing_again_keeps_the_same(tmp_path):
    root = write_dataset(tmp_path / "m", **FEW)
    before = (root / "classes.txt").stat().st_mtime_ns
    assert write_dataset(root, **FEW) == root
    assert (root / "classes.txt").stat().st_mtime_ns == before and _in(tmp_path) == ["m"]


def test_another_world_is_never_replaced(tmp_path):
    root = write_dataset(tmp_path / "m", **FEW)
    files = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with pytest.raises(
        ValueError, match=f"{root} has train=3, this profile says train=4: .*{root}_2"
    ):
        write_dataset(root, **FEW | {"train": 4})
    with pytest.raises(ValueError, match="has seed=0, size=64, this profile says seed=1, size=32"):
        write_dataset(root, seed=1, size=32, **FEW)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == files


def test_what_other_code_drew_is_drawn_again(tmp_path, monkeypatch):
    root = write_dataset(tmp_path / "m", **FEW)
    picture = next((root / "JPEGImages").iterdir())
    drawn = picture.read_bytes()
    picture.write_bytes(b"by other code")
    monkeypatch.setattr(dataset, "_drawing_version", lambda: "newer")
    assert write_dataset(root, **FEW) == root and picture.read_bytes() == drawn
    assert json.loads((root / "miniworld.json").read_text())["drawing"] == "newer"
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has train=3, this profile says train=4"):
        write_dataset(root, **FEW | {"train": 4})
    assert _in(tmp_path) == ["m"]  # nothing left lying about


def test_of_two_processes_one_draws(tmp_path):
    code = """
import sys, time
from clims_lib.miniworld import dataset
draw = dataset._draw
def slowly(root, *more):
    print("draws", flush=True)
    time.sleep(2)
    draw(root, *more)
dataset._draw = slowly
root = dataset.write_dataset(sys.argv[1], train=3, val=1, test=1, labelled=1)
print("train_00002.jpg" in [path.name for path in (root / "JPEGImages").iterdir()])
"""
    root = write_dataset(tmp_path / "m", **FEW)
    recipe = json.loads((root / "miniworld.json").read_text())
    (root / "miniworld.json").write_text(json.dumps(recipe | {"drawing": "older"}))
    calls = [
        subprocess.Popen([sys.executable, "-c", code, root], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = sorted(call.communicate(timeout=300)[0].split() for call in calls)
    assert said == [["True"], ["draws", "True"]]


def test_only_other_drawing_code_is_another_version(tmp_path, monkeypatch):
    code = {
        "pen.py": '"""Brushes."""\nimport math\nWIDE = 2\ndef line(x):\n    return x * WIDE\n',
        "captions.py": "WORDS = 1\n",
    }
    spaced = (
        '# pens\nWIDE  =  2  # pixels\n\n\ndef line(x):\n    """Draw."""\n    return (x*WIDE)\n'
    )

    def version(folder, files):
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text)
        monkeypatch.setattr(dataset, "__file__", str(tmp_path / folder / "dataset.py"))
        return dataset._drawing_version.__wrapped__()

    first = version("a", code)
    assert version("b", {"pen.py": spaced, "captions.py": "WORDS = 2\n"}) == first
    moved = {
        "wide.py": "WIDE = 2\n",
        "lines.py": spaced.replace("WIDE  =  2", "from wide import WIDE"),
    }
    assert version("c", moved) == first
    assert version("d", {"pen.py": spaced.replace("2", "3")}) != first


def test_a_stopped_writing_leaves_nothing(tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "_write_lists", stop)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "m", **FEW)
    assert _in(tmp_path) == []


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="val must be at least 1, not -1"):
        write_dataset(tmp_path / "m", val=-1)
    with pytest.raises(ValueError, match="labelled=9 is more than the 5"):
        write_dataset(tmp_path / "m", train=5, labelled=9)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(ValueError, match="not a MiniWorld"):
        write_dataset(tmp_path / "photos", train=2, val=1, test=1, labelled=1)
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"mine"
    with pytest.raises(ValueError, match="size_n"):
        world.make_corpus(size_n=0)
    with pytest.raises(ValueError, match="processes"):
        world.make_corpus(size_n=2, processes=0)


def test_corpus_holds_the_web_scenes():
    corpus = world.make_corpus(seed=5, size_n=6, processes=1)
    assert tuple(corpus.images.shape) == (6, 3, 64, 64)
    for i in range(6):
        scene = web_scene(np.random.default_rng([5, 3, i]))
        assert np.array_equal(corpus.images[i].permute(1, 2, 0).numpy(), scene.image)
        assert np.array_equal(corpus.thing_maps[i].numpy(), scene.thing_map)
        assert corpus.things[i] == scene.things


def test_drawing_processes_start_without_torch():
    code = "import sys, clims_lib.miniworld; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
