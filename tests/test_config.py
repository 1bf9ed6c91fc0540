"""The loader: types, mistakes that must be named, and profiles that differ only in values."""

import tomllib
from dataclasses import dataclass
from typing import Literal

import pytest

from clims_lib.config import PROFILES, ROOT, Profile, build, load_profile, to_toml

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
    inner: Inner


TABLE = {"name": "x", "on": True, "kind": "soft", "inner": {"rate": 1, "sizes": [2, 3]}}


def changed(path: str, value):
    table = {**TABLE, "inner": {**TABLE["inner"]}}
    *sections, key = path.split(".")
    (table[sections[0]] if sections else table)[key] = value
    return table


def test_build_converts():
    built = build(Outer, TABLE)
    assert built == Outer("x", True, "soft", Inner(1.0, (2, 3)))
    assert type(built.inner.rate) is float  # so that 1 and 1.0 give one key
    assert build(Outer, tomllib.loads(to_toml(built))) == built


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
        ("inner", 3, "inner is a section"),
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
    clip = getattr(load_profile(name), "clip", None)
    if not hasattr(clip, "cutouts"):
        pytest.skip("this profile's CLIP is not trained from captions")
    shares = [share for share in vars(clip.cutouts).values() if isinstance(share, float)]
    assert sum(shares) == pytest.approx(1)


def test_overrides():
    profile = load_profile(
        "tiny",
        [
            "clims.epochs=7",
            "seed = 3",
            "data.source=voc",
            'data.classes=["cow"]',
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
