"""What a stage is: a folder that is made once from what the stage declares, and never anew.

A stage declares the settings that it reads, by name; its inputs, which are other stages' folders or
what the data are; and its code, which is the function that it is with all that it can reach. These
three are the folder's recipe and its key a hash of them. So a result cannot be stale: what changes
it changes its name. Tests hold the declarations against what stages really read and run.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

from clims_lib.artifacts import (
    MANIFEST,
    artifact,
    folder_of,
    load_checkpoint,
    plain,
    read_json,
    save_checkpoint,
)
from clims_lib.config import Profile
from clims_lib.devices import ALONE, Team, bar, explains_out_of_memory
from clims_lib.sources import code_of

# Where things lie, how many work at once, and on how many pictures: no result depends on them.
HARMLESS = ("name", "note", "device", "jobs", "data_root", "weights", "outputs", "inference.batch")
# The recipe that is being made just now: for the test that looks at what a stage reads.
recipe_at_work: contextvars.ContextVar[dict | None] = contextvars.ContextVar("recipe", default=None)
_looking: contextvars.ContextVar[bool] = contextvars.ContextVar("looking", default=False)


class NotMade(FileNotFoundError):
    """A stage's folder that is not there, while nothing is to be made: `folder`."""

    def __init__(self, folder: Path):
        super().__init__(f"{folder} is not made yet")
        self.folder = folder


@contextlib.contextmanager
def looking_only() -> Iterator[None]:
    """Inside, a stage whose folder is not there raises NotMade instead of making it."""
    token = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(token)


def make_once(
    profile: Profile,
    kind: str,
    name: str,
    make: Callable[[Path], None],
    *,
    settings: Iterable[str] = (),
    inputs: Mapping[str, Any] | None = None,
    code: Iterable[Callable] = (),
    team: Team = ALONE,
) -> Path:
    """Return the folder outputs/<kind>/<name>-<key>, calling make(folder) only if it is absent.

    settings: dotted names of the profile's settings, "clims.lr", or of a section, "crf". inputs:
    {what it is: the folder of a finished stage, or plain data}. code: functions that the stage
    takes from a table, since its own source does not name them. The rest is as for `artifact`;
    the manifest also tells why the folder was made although one of its name was there. Raises
    NotMade inside `looking_only`.
    """
    recipe = plain(
        {
            "settings": {
                k: v for setting in settings for k, v in values_of(profile, setting).items()
            },
            "inputs": {what: _reference(value) for what, value in (inputs or {}).items()},
            "code": code_of(make, *code),
        }
    )

    def watched(folder: Path) -> None:
        token = recipe_at_work.set(recipe)
        try:
            make(folder)
        finally:
            recipe_at_work.reset(token)

    root = profile.outputs / kind
    folder = folder_of(root, name, recipe)
    if _looking.get() and not folder.is_dir():
        raise NotMade(folder)
    about = {} if folder.is_dir() else {"why": why(folder, recipe)}
    return artifact(root, name, recipe, watched, about, team)


@contextlib.contextmanager
def resuming(
    folder: Path, title: str, steps: int, device: torch.device, advice: str, team: Team = ALONE
) -> Iterator[dict[str, Any]]:
    """What `training.train` is handed inside a stage: it goes on from the folder's checkpoint, if
    there is one, and leaves its own there; a bar counts the steps. A GPU's running out of memory
    becomes a RuntimeError with the advice."""
    state = team.broadcast(load_checkpoint(folder))
    done = (state or {}).get("step", 0)
    with bar(steps, title, done) as progress, explains_out_of_memory(device, advice):
        yield {
            "steps": steps,
            "team": team,
            "state": state,
            "save": lambda state: save_checkpoint(folder, **state),
            "progress": progress,
        }


def values_of(profile: Profile, setting: str) -> dict[str, Any]:
    """{dotted name: value} of a setting, or of all settings of a section."""
    value = value_of(profile, setting)
    return _flat(setting, asdict(value) if is_dataclass(value) else value)  # type: ignore[arg-type]


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:  # an empty section is read, too
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in _flat(f"{name}.{key}", inner).items()}


def value_of(profile: Profile, setting: str) -> Any:
    """The value of a dotted name, as it is."""
    value: Any = profile
    for part in setting.split("."):
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    return value


def _reference(value: Any) -> Any:
    return f"{value.parent.name}/{value.name}" if isinstance(value, Path) else value


def why(folder: Path, recipe: dict) -> list[str]:
    """What is new about a recipe, held against the nearest of the folders of its name: ["losses.py
    changed"]; nothing where there is none."""
    name, others = folder.name.rpartition("-")[0], folder.parent
    paths = others.iterdir() if others.is_dir() else ()
    same = [p for p in paths if p.name.rpartition("-")[0] == name and (p / MANIFEST).is_file()]
    newest = sorted(same, key=lambda path: path.stat().st_mtime, reverse=True)[:20]
    found = [differences(recipe_in(p), recipe, folder.parents[1]) for p in newest if recipe_in(p)]
    return min(found, key=len, default=[])


def recipe_in(folder: Path) -> dict:
    """What a folder was made from; {} where its manifest cannot be read: it only explains."""
    try:
        recipe = read_json(folder / MANIFEST)["recipe"]
        return recipe if isinstance(recipe, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def differences(old: dict, new: dict, outputs: Path) -> list[str]:
    """Why two recipes differ, in words, down to the settings, data and code of their inputs."""
    found: dict[str, None] = {}
    for setting in _changed(old, new, "settings"):
        before, after = (recipe.get("settings", {}).get(setting) for recipe in (old, new))
        found[f"{setting} is {after}, was {before}" if before is not None else setting] = None
    for what in _changed(old, new, "inputs"):
        before, after = (recipe.get("inputs", {}).get(what) for recipe in (old, new))
        both = [v for v in (before, after) if isinstance(v, str) and "/" in v]
        was, now = (recipe_in(outputs / value) for value in both) if len(both) == 2 else ({}, {})
        deeper = differences(was, now, outputs) if was and now else []
        found |= dict.fromkeys(deeper or [f"{what} changed"])
    found |= {f"{file} changed": None for file in _changed(old, new, "code")}
    return list(found)


def _changed(old: dict, new: dict, part: str) -> list[str]:
    before, after = old.get(part, {}), new.get(part, {})
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]
