"""Profiles: TOML files read into frozen dataclasses, one per stage.

A profile may say `extends = "mini"` (a name in `profiles/`, or the path of a .toml from its own
folder; of a list the later ones go over the earlier ones) and then holds only what differs. A new
setting is one line in a dataclass of settings.py or settings_masks.py, and one line in mini.toml
and in common/voc2012.toml, which the others extend.
"""

import dataclasses
import os
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clims_lib.settings import (
    Augment,
    Cam,
    Clims,
    Clip,
    Compute,
    Data,
    Finetune,
    Losses,
    Prompts,
    Puzzle,
)
from clims_lib.settings_masks import Cct, Crf, Deeplab, Inference, Pseudo, Walk
from clims_lib.typed_toml import CHECKOUT as CHECKOUT
from clims_lib.typed_toml import ROOT as ROOT
from clims_lib.typed_toml import build, check_keys, did_you_mean, to_toml

PROFILES = Path(__file__).parent / "profiles"
# What no profile inherits: two that wrote into one folder would mix their results up.
OWN = ("name", "note", "outputs")
# Of any section: what there is at least one of.
AT_LEAST_ONE = (
    *("size", "batch", "batch_labelled", "batch_weak", "steps", "epochs", "longer_epochs"),
    *("accumulate", "thin", "tiles", "chosen_on"),
)


@dataclass(frozen=True, repr=False)
class Profile:
    """All settings of one run; a notebook shows them as TOML, what is inherited included."""

    name: str
    note: str
    seed: int
    device: Literal["auto", "cpu", "cuda"]
    jobs: int
    data_root: Path
    weights: Path
    outputs: Path
    clip_checkpoint: str
    data: Data
    clip: Clip | None
    finetune: Finetune
    prompts: Prompts
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

    def __post_init__(self) -> None:
        if self.clip is None and not self.clip_checkpoint:
            raise ValueError("no CLIP: give clip_checkpoint, or a section [clip] to train one")
        if self.clip is None and self.finetune.loss == "hinge":
            raise ValueError(
                "finetune.loss = 'hinge' replays captions, which the section [clip] describes: "
                "give it, or choose 'contrastive'"
            )
        named = {"losses.class_weights": tuple(self.losses.class_weights)}
        lines = [line.partition(":") for line in self.losses.background]
        named["losses.background"] = tuple(name.strip() for name, colon, _ in lines if colon)
        for setting, names in named.items():
            for name in names:
                if name not in self.data.classes:
                    near = did_you_mean(name, self.data.classes)
                    raise ValueError(f"{setting} names the unknown class {name!r}{near}")
        for field in dataclasses.fields(self):
            for name in AT_LEAST_ONE:
                count = getattr(getattr(self, field.name), name, 1)
                if count < 1:
                    raise ValueError(f"{field.name}.{name} must be 1 at least, not {count}")

    @property
    def headline(self) -> str:
        """The split whose scores are reported: MiniWorld's test, VOC's val."""
        return self.data.evaluated[-1]

    def __repr__(self) -> str:
        return to_toml(self)


def load_profile(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Profile:
    """Read `profiles/<name>.toml` (or a .toml path) and apply overrides like "clims.epochs=2".

    Relative paths in it count from the repository's root. The environment's VOC_ROOT takes the
    place of a VOC profile's data_root. Raises ValueError for a profile that does not exist or that
    extends itself, and for unknown keys (with the nearest name), missing keys and wrong types.
    """
    path = _profile_path(name_or_path)
    table = _read(path)
    if table.get("data", {}).get("source") == "voc" and os.environ.get("VOC_ROOT"):
        table["data_root"] = os.environ["VOC_ROOT"]
    for override in overrides:
        _apply(table, override)
    try:
        return build(Profile, table)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _read(path: Path, children: tuple[Path, ...] = ()) -> dict:
    """The table of a file, laid over that of the file it extends."""
    chain = (*children, path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    try:
        parent = table.pop("extends", None)
        check_keys(Profile, table)  # here, where the file that holds a wrong one is known
        if parent is None:
            return table
        parents = parent if isinstance(parent, list) else [parent]
        if not parents or not all(isinstance(one, str) for one in parents):
            raise ValueError(
                f"extends must be a profile's name or path in quotes, or a list of them, not "
                f"{parent!r}"
            )
        if not children:
            for key in OWN:
                if key not in table:
                    raise ValueError(
                        f"missing key {key}: {', '.join(OWN)} are each profile's own, not inherited"
                    )
        found: dict = {}
        for one in parents:
            above = _profile_path(path.parent / one if one.endswith(".toml") else one)
            if above.resolve() in [file.resolve() for file in chain]:
                circle = " -> ".join(file.name for file in (*chain, above))
                raise ValueError(f"extends leads in a circle: {circle}")
            found = _merge(found, _read(above, chain))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return _merge(found, table)


def _merge(below: dict, above: dict) -> dict:
    """Key by key, also within sections, what is `above` takes the place of what is `below`."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merge(below[key], value) if both else value
    return merged


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
