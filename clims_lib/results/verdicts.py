"""Whether the claims hold: notebook 07 and the README.

A claim's mean and spread are those of the seeds' differences. A difference is uncertain for two
reasons: other seeds would train other networks, and other test pictures would favour others. Its
standard error has both, the spread over S seeds / sqrt(S) and the bootstrap's over the pictures, as
the root of the sum of their squares. The verdict is

    met         where mean - 2 standard errors > goal
    not met     where mean + 2 standard errors < goal
    undecided   otherwise, and always of one seed, which knows no spread.

Of three seeds alone, two standard errors are Student's 82 per cent, not the 95 of many.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clims_lib.bootstrap import DRAWS, draw_pictures, scores_of_draws, standard_error
from clims_lib.config import Profile
from clims_lib.results.claims import CLAIMS, Claim, Found
from clims_lib.results.tables import headline_of, mean_spread, read_committed
from clims_lib.results.text import text_table

ERRORS = 2.0  # how many of them a difference must be away from its goal
LACKING = (KeyError, TypeError, ZeroDivisionError)  # no such row, no picture, nothing leaked before


def claims(
    rows: Iterable[dict],
    zero_shot: Iterable[dict] = (),
    split: str = "",
    errors: Mapping[str, float] | None = None,
) -> list[dict]:
    """[{"claim", "goal", "mean", "spread", "seeds", "error", "verdict", "since", "before"}] for all
    claims that can be tested.

    Numbers are points of per cent. errors: {claim: standard error over the pictures}, see
    `picture_errors`; what is not there is 0, and seeds alone decide. Claims whose rows are absent
    are left out.
    """
    rows, zero_shot, errors = list(rows), list(zero_shot), errors or {}
    split = split or headline_of(rows + zero_shot)
    by_seed: dict[str, dict[int, dict]] = {"rows": {}, "zero_shot": {}}
    for row in rows:
        if row["split"] == split:
            by_seed["rows"].setdefault(row["seed"], {})[row["method"]] = row
    for entry in zero_shot:
        if entry["split"] == split:
            accuracy = by_seed["zero_shot"].setdefault(entry["seed"], {})
            accuracy[entry["model"]] = entry["accuracy"]
    tested = []
    for claim in CLAIMS:
        values = seed_values(claim, by_seed[claim.of].values())
        if values:
            mean, spread, seeds = mean_spread(values)
            error = combined_error(spread, seeds, errors.get(claim.text, 0.0))
            tested.append(
                {
                    "claim": claim.text,
                    "goal": claim.goal,
                    "mean": mean,
                    "spread": spread,
                    "seeds": seeds,
                    "error": error,
                    "verdict": verdict(mean, error, claim.goal),
                    "since": claim.since,
                    "before": claim.before,
                }
            )
    return tested


def seed_values(claim: Claim, seeds: Iterable[Found]) -> list[float]:
    """What a claim measures in every seed that has all that it compares, points of per cent."""
    values = []
    for found in seeds:
        try:
            values.append(100 * claim.measure(found))
        except LACKING:
            continue
    return values


def combined_error(spread: float, seeds: int, of_pictures: float) -> float:
    """The standard error of a mean over seeds, other pictures included; inf of one seed."""
    return math.hypot(spread / math.sqrt(seeds), of_pictures) if seeds > 1 else math.inf


def verdict(mean: float, error: float, goal: float) -> str:
    """ "met", "not met" or "undecided": the module's rule."""
    if mean - ERRORS * error > goal:
        return "met"
    return "not met" if mean + ERRORS * error < goal else "undecided"


def picture_errors(
    counts: Mapping[int, Mapping[str, Mapping[str, Tensor]]],
    hits: Mapping[int, Mapping[str, tuple[Tensor, Tensor]]],
    classes: Sequence[str],
    draws: int = DRAWS,
) -> dict[str, float]:
    """{claim: standard error of its mean over seeds, points}, by the bootstrap over the pictures.

    All rows of all seeds have the same pictures in a draw. counts: {seed: {method: a row's
    `counts.count_pictures`}}; hits: {seed: {model: `measures.recognised`}}, of the same pictures.
    """
    labels, sizes = ["background", *classes], set()
    sizes |= {len(one["confusion"]) for rows in counts.values() for one in rows.values()}
    sizes |= {len(one[0]) for models in hits.values() for one in models.values()}
    if not sizes:
        return {}
    (pictures,) = sizes
    drawn = draw_pictures(pictures, draws)
    found: dict[str, list[list[dict]]] = {
        "rows": [
            _by_draw({m: scores_of_draws(c, labels, drawn)._asdict() for m, c in rows.items()})
            for rows in counts.values()
        ],
        "zero_shot": [
            _by_draw({m: _accuracies(*one, classes, drawn) for m, one in models.items()})
            for models in hits.values()
        ],
    }
    errors = {}
    for claim in CLAIMS:
        means = []
        for seeds in zip(*found[claim.of], strict=True):
            values = seed_values(claim, seeds)
            means.append(math.fsum(values) / len(values) if values else math.nan)
        scores = torch.tensor(means, dtype=torch.float64)
        if not bool(scores.isnan().all()):
            errors[claim.text] = standard_error(scores)
    return errors


def _accuracies(
    hits: Tensor, truth: Tensor, classes: Sequence[str], drawn: Tensor
) -> dict[str, Tensor]:
    """{class: accuracy (D,)} of D draws; nan where a draw has no picture of the class."""
    of_class = torch.stack([truth == k for k in range(len(classes))], 1).double()
    right = drawn @ (of_class * hits[:, None])
    return dict(zip(classes, (right / (drawn @ of_class)).unbind(1), strict=True))


def _by_draw(scores: Any) -> list[Any]:
    """Dictionaries of tensors (D,) -> D dictionaries of floats, None for nan."""
    if isinstance(scores, Tensor):
        return [None if math.isnan(score) else score for score in scores.tolist()]
    names, parts = list(scores), [_by_draw(part) for part in scores.values()]
    draws = max(map(len, parts), default=0)
    parts = [part or [{}] * draws for part in parts]
    return [dict(zip(names, part, strict=True)) for part in zip(*parts, strict=True)]


def committed_claims(profile: Profile) -> list[dict]:
    """`claims` of the committed table, with its errors over the pictures."""
    errors = {one["claim"]: one["error"] for one in read_committed(profile, "claims")}
    return claims(
        read_committed(profile), read_committed(profile, "zero_shot"), profile.headline, errors
    )


RULE = (
    "met: mean - 2 errors > goal; not met: mean + 2 errors < goal; else undecided. ±: spread over\n"
    "seeds; error: standard error over seeds and pictures; before, after: its first result."
)


def claims_table(tested: Iterable[dict]) -> str:
    """The claims as text, one line each, and the rule: goal, measured mean ± spread over seeds in
    points, standard error, verdict, when it was written down, before or after the first result."""
    lines: list[tuple[str, ...]] = [("claim", "goal", "measured", "error", "verdict", "written")]
    for one in tested:
        several = one["seeds"] > 1
        spread = f" ± {one['spread']:.1f}" if several else ""
        lines.append(
            (
                one["claim"],
                f">= {one['goal']:g}",
                f"{one['mean']:+.1f}{spread}",
                f"{one['error']:.1f}" if several else "-",
                one["verdict"],
                f"{one['since']}, {'before' if one['before'] else 'after'}",
            )
        )
    return "\n".join([text_table(lines, right=(1, 2, 3)), "", RULE])
