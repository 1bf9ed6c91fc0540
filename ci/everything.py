"""Everything that `ci/results` measures, seed by seed: the committed table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from clims_lib import oracle
from clims_lib.config import Profile, load_profile
from clims_lib.results.tuning import read_tuning
from clims_lib.settings import Cutouts
from clims_lib.sources import code_of
from clims_lib.stages.clip import finetune_clip, make_clip
from clims_lib.stages.criterion import from_clip
from clims_lib.stages.fully_supervised import deeplab_predictor
from clims_lib.stages.masks import WITH_CRF
from clims_lib.stages.measures import measure, oracle_check, picture_counts, recognised, zero_shot
from clims_lib.stages.methods import METHODS, table_rows
from clims_lib.stages.semi_supervised import cct_predictor
from clims_lib.stages.untrained import TOWERS

# What CLIMS is worth with a CLIP that was shown fewer cut-outs: shares of each way to cut.
CORPORA = {
    "clims_whole_pictures": {"whole": 1.0},
    "clims_random_blobs": {"whole": 0.5, "blobs": 0.5},
    "clims_blurred": {"whole": 0.5, "blurred": 0.5},
}


def code_of_results() -> dict[str, str]:
    """{file: hash} of all the code that decides the table, for its record."""
    losses = [method.loss for method in METHODS.values()]
    entries = [*losses, *WITH_CRF.values(), *TOWERS.values()]
    entries += [cct_predictor, deeplab_predictor, from_clip]
    return code_of(measure, oracle_check, zero_shot, *entries, through_stages=True)


def changed(profile: str, seed: int, settings: Mapping[str, float]) -> Profile:
    """A profile with a seed and some settings, {"losses.weights.reg": 90.0}."""
    others = [f"{name}={value}" for name, value in settings.items()]
    return load_profile(profile, [f"seed={seed}", *others])


def corpus_settings(name: str) -> dict[str, float]:
    """The settings that stand for one of CORPORA; none for other rows."""
    if name not in CORPORA:
        return {}
    return {f"clip.cutouts.{f.name}": CORPORA[name].get(f.name, 0.0) for f in fields(Cutouts)}


def measure_all(profile: str, seed: int) -> dict:
    """Every method and ablation of one seed, in results.json's form.

    And what the bootstrap draws from, on the headline's split: "counts" of every row's pictures,
    "hits" of the zero-shot ones.
    """
    one = changed(profile, seed, {})
    clips = {"clip": make_clip(one), "clip_finetuned": finetune_clip(one)}
    names = table_rows(one)
    return {
        "rows": [row for name in names for row in measure(one, name)],
        "zero_shot": [zero_shot(one, folder, name) for name, folder in clips.items()],
        "oracle": oracle_check(one, clips["clip_finetuned"]),
        "counts": {name: _counts(one, name) for name in names},
        "hits": {
            name: tuple(part.numpy() for part in recognised(one, folder, one.headline))
            for name, folder in clips.items()
        },
    }


def measure_corpora(profile: str, seed: int) -> dict:
    """CLIMS with CLIPs of other corpora, its loss weights chosen anew for each by `ci/tuning`.

    Rows as usual, with the oracle check's margin of every class and the chosen settings beside
    them.
    """
    rows, counts, chosen = [], {}, read_tuning(load_profile(profile))["chosen"]
    for name in CORPORA:
        weights = chosen.get(name, {})
        other = changed(profile, seed, corpus_settings(name) | weights)
        margins = oracle.margins(oracle_check(other, finetune_clip(other)))
        about = {"method": name, "margins": margins, "settings": weights}
        rows += [row | about for row in measure(other, "clims")]
        counts[name] = _counts(other, "clims")
    return {"rows": rows, "counts": counts}


def _counts(profile: Profile, name: str) -> dict:
    """As arrays, which processes hand each other whole."""
    return {what: counts.numpy() for what, counts in picture_counts(profile, name).items()}
