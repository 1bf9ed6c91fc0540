"""Profiles: TOML files read into frozen dataclasses, one per stage.

A new setting is one line in a dataclass of settings.py and one line in each file of `profiles/`.
"""

import dataclasses
import difflib
import os
import tomllib
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clims_lib.settings import (
    Augment,
    Cam,
    Cct,
    Clims,
    Clip,
    Compute,
    Crf,
    Data,
    Deeplab,
    Finetune,
    Inference,
    Losses,
    Pseudo,
    Puzzle,
    Walk,
)

PROFILES = Path(__file__).parent / "profiles"
# Relative paths in a profile count from the checkout, so that a notebook started in notebooks/
# and a command started elsewhere find the same artifacts.
CHECKOUT = Path(__file__).resolve().parents[1]
ROOT = CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else Path.cwd()


@dataclass(frozen=True, repr=False)
class Profile:
    """All settings of one run; a notebook shows it as the TOML text it came from."""

    name: str
    note: str
    seed: int
    device: Literal["auto", "cpu", "cuda"]
    jobs: int
    data_root: Path
    weights: Path
    outputs: Path
    data: Data
    clip: Clip
    finetune: Finetune
    losses: Losses
    compute: Compute
    augment: Augment
    cam: Cam
    puzzle: Puzzle
    clims: Clims
    inference: Inference
    walk: Walk
    crf: Crf
    pseudo: Pseudo
    deeplab: Deeplab
    cct: Cct

    @property
    def headline(self) -> str:
        """The split whose scores are reported: MiniWorld's test, VOC's val."""
        return self.data.evaluated[-1]

    def __repr__(self) -> str:
        return to_toml(self)


def load_profile(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Profile:
    """Read `profiles/<name>.toml` (or a .toml path) and apply overrides like "clims.epochs=2".

    Relative paths in it count from the repository's root. The environment's VOC_ROOT takes the
    place of a VOC profile's data_root. Raises ValueError for a profile that
    does not exist, and for unknown keys (with the nearest name), missing keys and wrong types.
    """
    path = _profile_path(name_or_path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    if table.get("data", {}).get("source") == "voc" and os.environ.get("VOC_ROOT"):
        table["data_root"] = os.environ["VOC_ROOT"]
    for override in overrides:
        _apply(table, override)
    try:
        return build(Profile, table)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def to_toml(settings: Any, section: str = "") -> str:
    """Return a settings dataclass as TOML text that reads back to the same values."""
    lines, sections = [], []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            name = f"{section}{field.name}"
            sections.append(f"\n[{name}]\n{to_toml(value, name + '.')}")
        else:
            lines.append(f"{field.name} = {_toml_value(value)}")
    return "\n".join(lines + sections)


def build(cls: type, table: Any, where: str = "") -> Any:
    """Build a settings dataclass from a TOML table; `where` is the section's dotted name."""
    if not isinstance(table, dict):
        raise ValueError(f"{where} is a section of keys, not {table!r}")
    types = typing.get_type_hints(cls)
    prefix = f"{where}." if where else ""
    for key in table:
        if key not in types:
            raise ValueError(f"unknown key {prefix}{key}{did_you_mean(key, types, prefix)}")
    for key, kind in types.items():
        if key not in table:
            raise ValueError(f"missing key {prefix}{key} ({_type_name(kind)})")
    return cls(**{key: _convert(kind, table[key], prefix + key) for key, kind in types.items()})


def did_you_mean(word: str, names: Iterable[str], prefix: str = "") -> str:
    """Return a clause naming the nearest known name, or all of them when none is near."""
    names = sorted(names)
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(names)}"


def _profile_path(name_or_path: str | Path) -> Path:
    if isinstance(name_or_path, Path) or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise ValueError(f"profile file {path} does not exist")
        return path
    path = PROFILES / f"{name_or_path}.toml"
    if not path.is_file():
        known = [file.stem for file in PROFILES.glob("*.toml")]
        raise ValueError(f"no profile {name_or_path!r}{did_you_mean(name_or_path, known)}")
    return path


def _apply(table: dict, override: str) -> None:
    """Set one value; the loader then checks the key and the type like any other."""
    name, equals, text = override.partition("=")
    *sections, key = name.strip().split(".")
    if not equals or not key:
        raise ValueError(f"an override looks like clims.epochs=2, not {override!r}")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ValueError(f"override {override!r}: {section} is a value, not a section")
    try:
        table[key] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[key] = text.strip()  # so that data.source=voc needs no quotes in the shell


def _convert(kind: Any, value: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return build(kind, value, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], v, f"{name}[{i}]") for i, v in enumerate(value))
    if origin is Literal and isinstance(value, str):
        if value not in arguments:
            raise ValueError(f"{name} = {value!r} is no choice{did_you_mean(value, arguments)}")
        return value
    if kind is Path and isinstance(value, str):
        return ROOT / Path(value).expanduser()
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float, str, bool) and type(value) is kind:  # a bool is not an int here
        return value
    raise ValueError(f"{name} must be {_type_name(kind)}, not {value!r}")


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a list of {_type_name(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    if dataclasses.is_dataclass(kind):
        return "a section"
    return "a path in quotes" if kind is Path else kind.__name__


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, Path):
        value = value.relative_to(ROOT) if value.is_relative_to(ROOT) else value
        return _toml_value(value.as_posix())
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
