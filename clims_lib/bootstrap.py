"""How far a score would move with other pictures: the bootstrap (Efron, 1979).

Pictures are drawn from those that were measured, with replacement and as many as there are, and the
score is computed anew from what the drawn ones hold. The standard deviation of many such scores is
the score's standard error. Scores of one draw belong together and may be subtracted: the difference
of two methods then has an error of its own, smaller than either's where both find the same
pictures hard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clims_lib import metrics

DRAWS = 1000
LEAK = "leak "  # of a picture's counts, before the pair: "leak water->boat"


def draw_pictures(pictures: int, draws: int = DRAWS, seed: int = 0) -> Tensor:
    """float64 (draws, pictures): how often each draw has each picture; rows add up to `pictures`.

    Raises ValueError where there is no picture.
    """
    if pictures < 1:
        raise ValueError("there is no picture to draw: measure a split that has some")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(pictures, (draws, pictures), generator=generator)
    ones = torch.ones(draws, pictures, dtype=torch.float64)
    return torch.zeros_like(ones).scatter_add_(1, drawn, ones)


class Scores(NamedTuple):
    """What D draws are worth, in fractions: float64 (D,) each, by label and by pair."""

    miou: Tensor
    iou: dict[str, Tensor]
    leak: dict[str, Tensor]


def scores_of_draws(counts: Mapping[str, Tensor], labels: Sequence[str], drawn: Tensor) -> Scores:
    """The scores of D draws of N pictures.

    counts: the pictures', whole numbers. "confusion" (N, L, L), rows = truth; for each pair "leak
    <pair>" (N, 2), how much of a ground is labelled as the object, and how much of it there is.
    drawn (D, N): how often each draw has each picture; all ones for the score itself.
    """
    confusion = counts["confusion"].double()
    sums = (drawn @ confusion.flatten(1)).view(-1, *confusion.shape[1:])
    iou = metrics.iou(sums)
    leak = {}
    for name in (name for name in counts if name.startswith(LEAK)):
        labelled, total = (drawn @ counts[name].double()).unbind(1)
        leak[name.removeprefix(LEAK)] = labelled / total.clamp(min=1)
    return Scores(iou.nanmean(1), dict(zip(labels, iou.unbind(1), strict=True)), leak)


def standard_error(scores: Tensor) -> float:
    """The standard deviation of the draws' scores (D,); draws without one, nan, are left out."""
    known = scores[~scores.isnan()]
    return float(known.std()) if len(known) > 1 else 0.0
