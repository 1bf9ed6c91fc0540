"""A profile that tells who reads which setting, and refuses what a stage did not declare."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

from clims_lib import stage
from clims_lib.artifacts import MANIFEST, read_json
from clims_lib.config import Profile


class Undeclared(AssertionError):
    """A stage read a setting that is neither its own nor one of its inputs'."""


def watch(profile: Profile, where: str = "") -> Profile:
    """The same settings; reading one inside a stage's `make` that its recipe lacks is an error."""
    values = {}
    for field in dataclasses.fields(profile):
        value, name = getattr(profile, field.name), f"{where}{field.name}"
        values[field.name] = watch(value, f"{name}.") if dataclasses.is_dataclass(value) else value
    watched = _watched(type(profile))(**values)
    object.__setattr__(watched, "_where", where)
    return watched


@cache
def _watched(kind: type) -> type:
    fields = {field.name for field in dataclasses.fields(kind)}

    class Watched(kind):
        def __getattribute__(self, name):
            value = super().__getattribute__(name)
            if name in fields and not dataclasses.is_dataclass(value):
                check(f"{super().__getattribute__('__dict__').get('_where', '')}{name}", self)
            return value

    Watched.__name__ = kind.__name__
    return Watched


def check(name: str, owner) -> None:
    recipe = stage.recipe_at_work.get()
    if recipe is None or name in stage.HARMLESS:
        return
    declared = declared_by(recipe)
    if not any(name == known or known.startswith(f"{name}.") for known in declared):
        raise Undeclared(f"{name} is read, but the stage declares only {sorted(declared)}")


OUTPUTS: list[Path] = []  # the folder of outputs that is watched


def declared_by(recipe: dict) -> set[str]:
    """The settings of a recipe and of its inputs' recipes, all the way down."""
    found = set(recipe["settings"])
    for value in recipe["inputs"].values():
        manifest = OUTPUTS[-1] / str(value) / MANIFEST
        if isinstance(value, str) and "/" in value and manifest.is_file():
            found |= declared_by(read_json(manifest)["recipe"])
    return found
