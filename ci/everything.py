"""Everything that `ci/results` measures, seed by seed: the committed table."""

from __future__ import annotations

from dataclasses import fields, replace

from clims_lib import oracle
from clims_lib.config import Profile
from clims_lib.settings import Cutouts
from clims_lib.sources import code_of
from clims_lib.stages.clip import finetune_clip, make_clip
from clims_lib.stages.criterion import from_clip
from clims_lib.stages.fully_supervised import deeplab_predictor
from clims_lib.stages.masks import WITH_CRF
from clims_lib.stages.measures import measure, oracle_check, zero_shot
from clims_lib.stages.methods import METHODS, table_rows
from clims_lib.stages.semi_supervised import cct_predictor

# What CLIMS is worth with a CLIP that was shown fewer cut-outs: shares of each way to cut.
CORPORA = {
    "clims_whole_pictures": {"whole": 1.0},
    "clims_random_blobs": {"whole": 0.5, "blobs": 0.5},
}


def code_of_results() -> dict[str, str]:
    """{file: hash} of all the code that decides the table, for its record."""
    losses = [method.loss for method in METHODS.values()]
    entries = [*losses, *WITH_CRF.values(), cct_predictor, deeplab_predictor, from_clip]
    return code_of(measure, oracle_check, zero_shot, *entries, through_stages=True)


def measure_all(profile: Profile) -> dict:
    """Every method and ablation of one seed, in results.json's form."""
    before, after = make_clip(profile), finetune_clip(profile)
    rows = [row for name in table_rows(profile) for row in measure(profile, name)]
    scores = [zero_shot(profile, before, "clip"), zero_shot(profile, after, "clip_finetuned")]
    return {"rows": rows, "zero_shot": scores, "oracle": oracle_check(profile, after)}


def measure_corpora(profile: Profile) -> dict:
    """CLIMS with CLIPs trained without cut-outs, and with random blobs as the only ones.

    Rows as usual, with the oracle check's margin of every class beside them.
    """
    rows = []
    for name, shares in CORPORA.items():
        cuts = Cutouts(**{f.name: shares.get(f.name, 0.0) for f in fields(Cutouts)})
        other = replace(profile, clip=replace(profile.clip, cutouts=cuts))
        margins = oracle.margins(oracle_check(other, finetune_clip(other)))
        rows += [row | {"method": name, "margins": margins} for row in measure(other, "clims")]
    return {"rows": rows}
