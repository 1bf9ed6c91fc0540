"""Dataclasses of settings from TOML tables, and back: types, and mistakes with the nearest name."""

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from clims_lib.settings import FrozenDict

# Relative paths in a profile count from the checkout, so that a notebook started in notebooks/
# and a command started elsewhere find the same artifacts.
CHECKOUT = Path(__file__).resolve().parents[1]
ROOT = CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else Path.cwd()


def to_toml(settings: Any, section: str = "") -> str:
    """Return a settings dataclass as TOML text that reads back to the same values."""
    if dataclasses.is_dataclass(settings):
        settings = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    lines, sections = [], []
    for key, value in settings.items():
        name = key if re.fullmatch(r"[\w-]+", key, re.ASCII) else _toml_value(key)
        if dataclasses.is_dataclass(value) or isinstance(value, dict):
            sections.append(f"\n[{section}{name}]\n{to_toml(value, f'{section}{name}.')}")
        elif value is not None:
            lines.append(f"{name} = {_toml_value(value)}")
    return "\n".join(lines + sections)


def build(cls: type, table: Any) -> Any:
    """Build a settings dataclass from a TOML table. Raises ValueError as `load_profile` does."""
    check_keys(cls, table)
    return _build(cls, table)


def did_you_mean(word: str, names: Iterable[str], prefix: str = "") -> str:
    """Return a clause naming the nearest known name, or all of them when none is near."""
    names = sorted(names)
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(names)}"


def check_keys(cls: type, table: Any, where: str = "") -> None:
    """Raise ValueError for a key that is no field; `where` is the section's dotted name."""
    if not isinstance(table, dict):
        raise ValueError(f"{where} is a section of keys, not {table!r}")
    types, prefix = typing.get_type_hints(cls), f"{where}." if where else ""
    for key, value in table.items():
        if key not in types:
            raise ValueError(f"unknown key {prefix}{key}{did_you_mean(key, types, prefix)}")
        kind = _needed(types[key])
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            check_keys(kind, value, prefix + key)


def _build(cls: type, table: dict, where: str = "") -> Any:
    prefix, values = f"{where}." if where else "", {}
    for key, kind in typing.get_type_hints(cls).items():
        if key in table:
            values[key] = _convert(_needed(kind), table[key], prefix + key)
        elif _needed(kind) is kind:
            raise ValueError(f"missing key {prefix}{key} ({_type_name(kind)})")
        else:
            values[key] = None
    return cls(**values)


def _needed(kind: Any) -> Any:
    """X of `X | None`, which a table may leave out; any other type as it is."""
    arguments = typing.get_args(kind)
    return arguments[0] if type(None) in arguments else kind


def _convert(kind: Any, value: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _build(kind, value, name)
    if origin is dict and isinstance(value, dict):
        entries = ((key, _convert(arguments[1], v, f"{name}.{key}")) for key, v in value.items())
        return FrozenDict(entries)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], v, f"{name}[{i}]") for i, v in enumerate(value))
    if origin is Literal and type(value) in map(type, arguments):
        if value not in arguments:
            near = did_you_mean(str(value), map(str, arguments))
            raise ValueError(f"{name} = {value!r} is no choice{near}")
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
    if typing.get_origin(kind) is dict:
        return f"a section of {_type_name(typing.get_args(kind)[1])}"
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
