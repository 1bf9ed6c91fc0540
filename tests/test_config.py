"""The loader: types, mistakes that must be named, profiles that hold only what differs."""

import copy
import pickle
import tomllib
from dataclasses import dataclass
from typing import Literal

import pytest

from clims_lib.config import PROFILES, ROOT, Profile, build, load_profile, to_toml
from clims_lib.settings import FrozenDict

NAMES = sorted(path.stem for path in PROFILES.glob("*.toml"))


@dataclass(frozen=True)
class Inner:
    rate: float
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Outer:
    name: str
    on: bool
    kind: Literal["soft", "hard"]
    version: Literal[2, 3]
    inner: Inner
    shares: dict[str, float]
    more: Inner | None


TABLE = {
    "name": "x",
    "on": True,
    "kind": "soft",
    "version": 3,
    "inner": {"rate": 1, "sizes": [2, 3]},
    "shares": {"a": 1, "b c": 0.5},
}


def changed(path: str, value):
    table = copy.deepcopy(TABLE)
    *sections, key = path.split(".")
    (table[sections[0]] if sections else table)[key] = value
    return table


def test_build_converts():
    built = build(Outer, TABLE)
    assert built == Outer("x", True, "soft", 3, Inner(1.0, (2, 3)), {"a": 1.0, "b c": 0.5}, None)
    assert type(built.inner.rate) is float  # so that 1 and 1.0 give one key
    assert build(Outer, tomllib.loads(to_toml(built))) == built
    more = build(Outer, TABLE | {"more": {"rate": 2.0, "sizes": []}})
    assert more.more == Inner(2.0, ()) and build(Outer, tomllib.loads(to_toml(more))) == more


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("inner.rat", 2, "unknown key inner.rat; did you mean inner.rate"),
        ("nmae", 2, "unknown key nmae; did you mean name"),
        ("inner.rate", "2", "inner.rate must be float, not '2'"),
        ("inner.rate", True, "inner.rate must be float, not True"),
        ("inner.sizes", [2, 3.5], r"inner.sizes\[1\] must be int, not 3.5"),
        ("inner.sizes", 2, "inner.sizes must be a list of int"),
        ("on", 1, "on must be bool"),
        ("kind", "sort", "kind = 'sort' is no choice; did you mean soft"),
        ("kind", 3, "kind must be 'soft' or 'hard'"),
        ("version", 4, "version = 4 is no choice; known: 2, 3"),
        ("version", "3", "version must be 2 or 3, not '3'"),
        ("inner", 3, "inner is a section"),
        ("shares", 3, "shares must be a section of float, not 3"),
        ("shares.a", "x", "shares.a must be float, not 'x'"),
        ("more", {"rat": 1}, "unknown key more.rat; did you mean more.rate"),
        ("more", {"rate": 1}, "missing key more.sizes"),
    ],
)
def test_mistakes_are_named(path, value, message):
    with pytest.raises(ValueError, match=message):
        build(Outer, changed(path, value))


def test_missing_key_is_named():
    table = changed("inner.rate", 1.0)
    del table["inner"]["sizes"]
    with pytest.raises(ValueError, match=r"missing key inner.sizes \(a list of int\)"):
        build(Outer, table)


@pytest.mark.parametrize("name", NAMES)
def test_profiles_load_and_read_back(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.outputs == ROOT / "outputs" / name
    assert build(Profile, tomllib.loads(repr(profile))) == profile
    assert str(ROOT) not in repr(profile)  # a notebook shows the same text on every machine


def test_mini_and_tiny_exist():
    assert {"mini", "tiny"} <= set(NAMES)


def test_every_mini_setting_has_its_reason():
    text = (PROFILES / "mini.toml").read_text()
    sections = [part for part in text.split("\n[")[1:]]
    assert all("#" in section for section in sections)


@pytest.mark.parametrize("name", NAMES)
def test_shares_of_cutouts_add_up(name):
    clip = load_profile(name).clip
    if clip is None:
        pytest.skip("this profile's CLIP is not trained from captions")
    assert sum(vars(clip.cutouts).values()) == pytest.approx(1)


def test_overrides():
    profile = load_profile(
        "tiny",
        [
            "clims.epochs=7",
            "seed = 3",
            "data.source=voc",
            'data.classes=["cow"]',
            'losses.background=["cow: grass"]',
            "outputs=outputs/else",
        ],
    )
    assert (profile.clims.epochs, profile.seed, profile.data.source) == (7, 3, "voc")
    assert profile.data.classes == ("cow",)
    assert profile.outputs == ROOT / "outputs/else"
    assert load_profile("tiny").clims.epochs != 7


@pytest.mark.parametrize(
    "override, message",
    [
        ("clims.epoch=2", "tiny.toml: unknown key clims.epoch; did you mean clims.epochs"),
        ("clim.epochs=2", "unknown key clim; did you mean clims"),
        ("clims.epochs=two", "clims.epochs must be int, not 'two'"),
        ("clims.epochs=2.5", "clims.epochs must be int, not 2.5"),
        ("clims=2", "clims is a section"),
        ("seed.x=2", "seed is a value"),
        ("clims.epochs", "an override looks like"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(ValueError, match=message):
        load_profile("tiny", [override])


def test_profile_files(tmp_path):
    with pytest.raises(ValueError, match="no profile 'tinny'; did you mean tiny"):
        load_profile("tinny")
    with pytest.raises(ValueError, match="does not exist"):
        load_profile(tmp_path / "mine.toml")
    mine = tmp_path / "mine.toml"
    mine.write_text("name = ")
    with pytest.raises(ValueError, match="mine.toml is not TOML"):
        load_profile(mine)
    mine.write_text(repr(load_profile("tiny", [f"outputs={tmp_path}"])))
    assert load_profile(str(mine)).outputs == tmp_path


def test_a_profile_needs_a_clip():
    with pytest.raises(ValueError, match=r"give clip_checkpoint, or a section \[clip\]"):
        load_profile("voc2012", ["clip_checkpoint="])
    with pytest.raises(ValueError, match="'hinge' replays captions"):
        load_profile("voc2012", ["finetune.loss=hinge"])
    assert load_profile("mini", ["clip_checkpoint=mine.pt"]).clip.steps > 0


@pytest.mark.parametrize("name", NAMES)
def test_settings_have_a_hash_and_are_copied(name):
    profile = load_profile(name)
    again = load_profile(name)
    assert hash(profile) == hash(again) and len({profile, again}) == 1
    assert hash(profile) != hash(load_profile(name, ["losses.weights.reg=7"]))
    assert copy.deepcopy(profile) == pickle.loads(pickle.dumps(profile)) == profile


def test_frozen_dicts_do_not_change():
    weights = FrozenDict(a=1.0)
    for change in (
        lambda: weights.update(a=2.0),
        lambda: weights.setdefault("b", 2.0),
        lambda: weights.__setitem__("a", 2.0),
        lambda: weights.__ior__({"b": 2.0}),
        weights.popitem,
        weights.clear,
    ):
        with pytest.raises(TypeError, match="settings do not change"):
            change()
    assert weights == {"a": 1.0} and type(weights | {"b": 2.0}) is dict


# ---- extends

OWN = 'name = "child"\nnote = "n"\noutputs = "outputs/child"\n'


def write(path, text, own=OWN):
    path.parent.mkdir(exist_ok=True)
    path.write_text(own + text)
    return path


def test_a_child_holds_only_what_differs(tmp_path):
    child = write(
        tmp_path / "child.toml",
        'extends = "mini"\nseed = 4\n[clip]\nsteps = 7\n[clip.cutouts]\nwhole = 0.1\n'
        '[losses]\nbackground = ["cow: grass"]\n[losses.weights]\nreg = 9\n',
    )
    found, mini = load_profile(child), load_profile("mini")
    expected = tomllib.loads(repr(mini))  # the same by hand: a flat table, changed in place
    expected |= {"name": "child", "note": "n", "outputs": "outputs/child", "seed": 4}
    expected["clip"]["steps"] = 7
    expected["clip"]["cutouts"]["whole"] = 0.1
    expected["losses"]["background"] = ["cow: grass"]  # lists are replaced
    expected["losses"]["weights"]["reg"] = 9.0
    assert found == build(Profile, expected)
    assert tomllib.loads(repr(found)) == expected  # a notebook shows all of it
    assert load_profile(child, ["clip.steps=8"]).clip.steps == 8


def test_a_chain_and_paths_from_the_file_that_names_them(tmp_path, monkeypatch):
    write(tmp_path / "far/base.toml", 'extends = "tiny"\n[clims]\nepochs = 5\nbatch = 3\n')
    write(tmp_path / "near/middle.toml", 'extends = "../far/base.toml"\n[clims]\nbatch = 4\n')
    last = write(tmp_path / "near/last.toml", 'extends = "middle.toml"\n[clims]\nlr = 1.0\n')
    monkeypatch.chdir(tmp_path)
    clims = load_profile(last).clims
    assert (clims.epochs, clims.batch, clims.lr) == (5, 4, 1.0)
    assert clims.clip_norm == load_profile("tiny").clims.clip_norm
    assert load_profile("near/last.toml") == load_profile(last)


def test_of_several_parents_the_later_goes_over_the_earlier(tmp_path):
    write(tmp_path / "few.toml", "[clims]\nepochs = 1\nlr = 5.0\n", own="")  # no profile by itself
    child = write(tmp_path / "child.toml", 'extends = ["mini", "few.toml"]\n[clims]\nlr = 6.0\n')
    found, mini = load_profile(child).clims, load_profile("mini").clims
    assert (found.epochs, found.lr, found.batch) == (1, 6.0, mini.batch)
    with pytest.raises(ValueError, match="few.toml: missing key name"):
        load_profile(tmp_path / "few.toml")


def test_voc_root_reaches_a_child(tmp_path, monkeypatch):
    monkeypatch.setenv("VOC_ROOT", str(tmp_path))
    child = write(tmp_path / "child.toml", 'extends = "voc2012"\ndata_root = "elsewhere"\n')
    assert load_profile(child).data_root == tmp_path  # as for any VOC profile
    assert load_profile(child, ["data_root=here"]).data_root == ROOT / "here"


@pytest.mark.parametrize("key", ["name", "note", "outputs"])
def test_what_is_not_inherited(tmp_path, key):
    own = "".join(line for line in OWN.splitlines(True) if not line.startswith(key))
    child = write(tmp_path / "child.toml", 'extends = "tiny"\n', own)
    with pytest.raises(ValueError, match=f"child.toml: missing key {key}: .* not inherited"):
        load_profile(child)


@pytest.mark.parametrize(
    "text, message",
    [
        ('extends = "minni"', "child.toml: no profile 'minni'; did you mean mini"),
        ('extends = "none.toml"', "child.toml: profile file .*none.toml does not exist"),
        (
            "extends = 3",
            "child.toml: extends must be a profile's name or path in quotes, or a list",
        ),
        ("extends = []", "child.toml: extends must be a profile's name"),
        ('extends = ["tiny", 3]', "child.toml: extends must be a profile's name"),
        ('extends = ["tiny", "child.toml"]', "child.toml: extends leads in a circle"),
        ('extends = "child.toml"', "child.toml: extends leads in a circle: child.toml -> child"),
        ('extends = "two.toml"', "three.toml: .* child.toml -> two.toml -> three.toml -> child"),
        ('extends = "typo.toml"', "typo.toml: unknown key clims.epoch; did you mean clims.epochs"),
        ('extends = "tiny"\n[clim]', "child.toml: unknown key clim; did you mean clims"),
        ('extends = "tiny"\nclims = 3', "child.toml: clims is a section"),
        ('extends = "tiny"\n[data]\nsize = "x"', "child.toml: data.size must be int, not 'x'"),
    ],
)
def test_mistakes_of_extending_name_the_file(tmp_path, text, message):
    write(tmp_path / "two.toml", 'extends = "three.toml"\n')
    write(tmp_path / "three.toml", 'extends = "child.toml"\n')
    write(tmp_path / "typo.toml", 'extends = "tiny"\n[clims]\nepoch = 1\n')
    with pytest.raises(ValueError, match=message):
        load_profile(write(tmp_path / "child.toml", text))
