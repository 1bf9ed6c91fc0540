"""What a stage declares is what it reads and runs: a whole run of the tiny profile is watched."""

from __future__ import annotations

import dataclasses
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import profile_of

from clims_lib import sources, stage
from clims_lib.artifacts import MANIFEST, read_json
from clims_lib.config import Profile, load_profile
from clims_lib.stages import measures, methods

LIBRARY = str(sources.PACKAGE)


class Undeclared(AssertionError):
    """A stage read a setting that is neither its own nor one of its inputs'."""


def watch(settings: Profile, where: str = "") -> Profile:
    """The same settings; reading one inside a stage that does not declare it is an error."""
    values = {}
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{where}{field.name}"
        values[field.name] = watch(value, f"{name}.") if dataclasses.is_dataclass(value) else value
    return _watched(type(settings), where)(**values)


@cache
def _watched(kind: type, where: str) -> type:
    """A class, so that what `dataclasses.replace` makes of it is watched, too."""
    fields = {field.name for field in dataclasses.fields(kind)}

    class Watched(kind):
        def __getattribute__(self, name):
            value = super().__getattribute__(name)
            if name in fields and not dataclasses.is_dataclass(value):
                check(where + name, stage.recipe_at_work.get())
            return value

    return Watched


def check(name: str, recipe: dict | None) -> None:
    """Raise Undeclared where the recipe at work, if any, lacks a setting."""
    if recipe is None or name in stage.HARMLESS:
        return
    declared = declared_by(recipe, WATCHED[-1])
    if inside_another_stage(sys._getframe()):  # what it reads is in the other one's key
        return
    if not any(name == known or known.startswith(f"{name}.") for known in declared):
        raise Undeclared(f"{name} is read, but these are declared: {sorted(declared)}")


# Where the data are (what they hold is in the keys), and how many maps are made besides.
INNOCENT = ("open_split", "make_data", "looked_at")
WATCHED: list[Path] = []  # the outputs folder of the run that is watched


def declared_by(recipe: dict, outputs: Path) -> set[str]:
    """The settings of a recipe and of its inputs' recipes, all the way down."""
    found = set(recipe["settings"])
    for value in recipe["inputs"].values():
        manifest = outputs / str(value) / MANIFEST
        if "/" in str(value) and manifest.is_file():
            found |= declared_by(read_json(manifest)["recipe"], outputs)
    return found


@pytest.mark.slow
def test_no_stage_reads_another_forms_settings(tmp_path):
    """The forms that the tiny profile does not have: other losses, masks without a CRF."""
    forms = ["pseudo.crf=false", 'finetune.loss="contrastive"', 'losses.cbs_form="thresholded"']
    profile = load_profile("tiny", [f"outputs={tmp_path}", *forms])
    WATCHED.append(tmp_path)
    assert measures.measure(watch(profile), "pseudo_only")


@pytest.mark.slow
@pytest.mark.parametrize("forms", ([], ["deeplab.version=3", "deeplab.start=cam", "cct.start=cam"]))
def test_no_network_of_the_releases_reads_another_ones_settings(small_voc, forms):
    settings = ["pseudo.method=cam", "pseudo.crf=false", "deeplab.crf.iterations=0"]
    profile = profile_of(small_voc, *settings, *forms)
    WATCHED.append(profile.outputs)
    for name in ("supervised", "cct", "cct_cam", "deeplab_cam"):
        assert measures.measure(watch(profile), name)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["affinitynet", "irnet"])
def test_no_released_walk_reads_anothers_settings(tmp_path, form):
    released = [f"walk.form={form}", "walk.radius=3.0", "walk.training_radius=3", "walk.stride=4"]
    released += ["walk.normalise=joint", "walk.thresholds=[0.2]", "data.subsets=drawn"]
    profile = load_profile("tiny", [f"outputs={tmp_path}", *released])
    WATCHED.append(tmp_path)
    assert measures.measure(watch(profile), "cam_walk_crf")


def test_an_undeclared_setting_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "code_of", lambda *_: {})  # this file is none of the library's
    profile = watch(load_profile("tiny", [f"outputs={tmp_path}"]))
    WATCHED.append(tmp_path)

    def make(folder):
        assert profile.clims.lr > 0 and profile.inference.batch > 0

    before = stage.make_once(profile, "weights", "declared", make, settings=["clims.lr"])
    with pytest.raises(Undeclared, match="clims.lr is read"):
        stage.make_once(profile, "weights", "not", make, settings=["clims.epochs"])

    def reads_more(folder):
        assert profile.seed == 0

    inputs = {"before": before}
    with pytest.raises(Undeclared, match="seed is read"):
        stage.make_once(profile, "weights", "more", reads_more, inputs=inputs)


@pytest.mark.slow
def test_no_stage_reads_or_runs_what_it_does_not_declare(tmp_path, monkeypatch):
    """Every setting that is read while a stage works is declared; every function of the library
    that runs meanwhile is hashed, or belongs to another stage, whose folder is an input."""
    starts: dict[str, set] = {}
    code_of = sources.code_of

    def declare(*items):
        starts["last"] = {name for item in items for name in sources._names_of(item)}
        return code_of(*items)

    artifact, allowed = stage.artifact, {}

    def begin(root, name, recipe, *rest):
        key = (root.name, name)
        allowed.setdefault(key, set()).update(sources.reached(starts["last"], False))
        WORKING[repr(recipe)] = key
        return artifact(root, name, recipe, *rest)

    monkeypatch.setattr(stage, "code_of", declare)
    monkeypatch.setattr(stage, "artifact", begin)
    ran: dict[tuple, set] = {}
    profile = watch(load_profile("tiny", [f"outputs={tmp_path}"]))
    WATCHED.append(tmp_path)
    sys.setprofile(lambda frame, event, _: event == "call" and note(frame, ran))
    try:
        rows = [r for name in methods.table_rows(profile) for r in measures.measure(profile, name)]
    finally:
        sys.setprofile(None)
    assert {row["method"] for row in rows} == set(methods.table_rows(profile))
    assert ran.keys() == allowed.keys() and len(ran) > 90
    undeclared = {key: sorted(names - allowed[key]) for key, names in ran.items()}
    assert not {key: names for key, names in undeclared.items() if names}


WORKING: dict[str, tuple] = {}


def note(frame, ran: dict[tuple, set]) -> None:
    """Remember which definition of the library runs for which stage."""
    if not frame.f_code.co_filename.startswith(LIBRARY):
        return
    recipe = stage.recipe_at_work.get()
    if recipe is None:
        return
    found = where_is(frame.f_code)
    if found is None or inside_another_stage(frame):
        return
    ran.setdefault(WORKING[repr(recipe)], set()).add(found)


def where_is(code) -> tuple[str, str] | None:
    """(module, definition) of a function's code, None for plumbing and for a module's own body."""
    return _where_is(code.co_filename, code.co_qualname)  # codes of two files may be equal


@cache
def _where_is(file: str, qualname: str) -> tuple[str, str] | None:
    path = Path(file).relative_to(sources.PACKAGE.parent).with_suffix("")
    module, name = ".".join(path.parts), qualname.partition(".")[0]
    if module in sources.PLUMBING or f"{module}.{name}" in sources.PLUMBING or name[0] == "<":
        return None
    return module, name


def inside_another_stage(frame) -> bool:
    """Is this called by a stage that the working one asks for a folder?"""
    while frame is not None and frame.f_code.co_name != "watched":
        if frame.f_code.co_name in INNOCENT:
            return True
        found = where_is(frame.f_code) if frame.f_code.co_filename.startswith(LIBRARY) else None
        if found and "<locals>" not in frame.f_code.co_qualname:
            definition = sources.read_module(found[0]).definitions.get(found[1])
            if definition and sources.STAGE in definition.uses:
                return True
        frame = frame.f_back
    return False
