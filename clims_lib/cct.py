"""Cross-consistency training, CCT: semi-supervised segmentation (Ouali et al., CVPR 2020).

A few pictures have pixel labels, most have none. Encoder and main decoder learn from the few; on
the others, auxiliary decoders see perturbed features and must agree with the main decoder, which
sees the features as they are. Pseudo masks made from image-level labels (section 3.4; here from
CLIMS) can be learnt besides. Only encoder and main decoder segment at test time.

The network is in cct_network.py. Shapes: B pictures of H x W pixels, L = K + 1 labels with the
background as 0; 255 in a mask is ignored. Derived in notebook 06.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from clims_lib.cct_network import CCT
from clims_lib.labels import IGNORE
from clims_lib.objectives import Counted, Loss, LossAndParts

# Pictures and masks; weak pictures, and pseudo masks of them, if there are any.
MixedBatch = tuple[Tensor, Tensor, Tensor | None, Tensor | None]

# ---- Losses -------------------------------------------------------------------------------------


RAMPS: dict[str, Callable[[float], float]] = {  # of t in [0, 1]; all but "log" end at 1
    "sigmoid": lambda t: math.exp(-5 * (1 - t) ** 2),
    "linear": lambda t: t,
    "cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    "log": lambda t: 1 - math.exp(-5 * t),
    "exp": lambda t: math.exp(-5 * (1 - t)),
}


def ramp_up(step: float, length: float, form: str = "sigmoid") -> float:
    """How far something has risen by a step: exp(-5 (1 - t)^2), t = step / length (section 3.2).

    0.007 at first, 1 from `length` on. form: one of `RAMPS`; other ones raise a ValueError.
    """
    if form not in RAMPS:
        raise ValueError(f"form is {form!r}; choose one of {list(RAMPS)}")
    t = min(max(step / length, 0.0), 1.0) if length > 0 else 1.0
    return RAMPS[form](t)


def truth_threshold(step: int, total_steps: int, num_labels: int, form: str = "log") -> float:
    """eta(t): from 1/L to 0.9 as 1 - exp(-5t) over the first 40 % of training (section 3.5).

    form: one of `RAMPS`.
    """
    rise = ramp_up(step, 0.4 * total_steps, form)
    return 1 / num_labels + (0.9 - 1 / num_labels) * rise


def cross_entropy(
    scores: Tensor, masks: Tensor, threshold: float | None = None, min_kept: int = 0
) -> Tensor:
    """Mean cross entropy of scores (B, L, H, W) over the labelled pixels of masks (B, H, W).

    With a threshold eta it is the annealed bootstrapped form, ab-CE (Eq. 3): only pixels whose true
    label has a predicted probability below eta count, so the few labelled pictures are not learnt
    by heart; where these are few, the min_kept worst pixels a picture count all the same (released:
    1). 0 where no pixel counts. Raises ValueError when the shapes do not fit.
    """
    if scores[:, 0].shape != masks.shape:
        raise ValueError(
            f"scores (B, L, H, W) {tuple(scores.shape)} do not fit masks (B, H, W) "
            f"{tuple(masks.shape)}"
        )
    losses = F.cross_entropy(scores, masks.long(), ignore_index=IGNORE, reduction="none")
    counts = masks != IGNORE
    if threshold is not None:
        probability = (-losses.detach()).exp()
        below = probability < threshold
        if min_kept:
            known = probability.masked_fill(~counts, 2.0).flatten().sort().values
            place = (counts.sum() - 1).clamp(0, min_kept * len(masks))
            below = below | (probability < known.gather(0, place[None]))
        counts = counts & below
    return (losses * counts).sum() / counts.sum().clamp(min=1)


def consistency(
    auxiliary: Tensor, main: Tensor, reduction: str = "mean", confidence: float | None = None
) -> Tensor:
    """Squared difference of two predictions' softmaxes, from scores (B, L, H, W) each (Eq. 2).

    The main decoder is the teacher: no gradient flows into it. "mean" averages over everything, as
    published; "sum_labels" sums over the L labels and averages over pixels, so it is L times larger
    and a weight means the same for any number of labels. With a confidence only pixels count where
    the main decoder's largest probability is above it; 0 if there is none (published: not used).
    Raises ValueError for other reductions.
    """
    if reduction not in ("mean", "sum_labels"):
        raise ValueError(f"reduction is {reduction!r}; choose 'mean' or 'sum_labels'")
    teacher = main.detach().softmax(1)
    squares = (auxiliary.softmax(1) - teacher) ** 2
    if confidence is not None:
        sure = teacher.amax(1, keepdim=True) > confidence
        pixels = sure.sum().clamp(min=1)
        number = pixels * squares.shape[1] if reduction == "mean" else pixels
        return (squares * sure).sum() / number
    return squares.mean() if reduction == "mean" else squares.sum(1).mean()


def cct_loss(
    model: CCT,
    images: Tensor,
    masks: Tensor,
    weak_images: Tensor | None = None,
    pseudo_masks: Tensor | None = None,
    *,
    step: int,
    total_steps: int,
    generator: Generator,
    unsupervised_weight: float = 30.0,
    ramp: float = 0.1,
    weak_weight_auxiliary: float = 0.4,
    weak_weight_main: float = 0.0,
    reduction: str = "mean",
    confidence: float | None = None,
    annealed: bool = True,
    min_kept: int = 0,
) -> LossAndParts:
    """The whole loss of one step and its unweighted terms (sections 3.2 and 3.4).

        supervised + r(t) (unsupervised_weight consistency + weak_weight_auxiliary weak_auxiliary)
        + weak_weight_main weak_main

    supervised: ab-CE (CE if not `annealed`) of the main decoder on images (B, 3, H, W), normalised,
    and masks (B, H, W). On weak_images: consistency of the auxiliary decoders with the main one, CE
    of the auxiliary decoders and, not in the paper, of the main one on pseudo_masks. r rises over
    the share `ramp` of training. Without weak_images: supervised alone. reduction, confidence: see
    `consistency`; min_kept: see `cross_entropy`. Raises ValueError when something that a weight
    asks for is missing. Defaults are the paper's settings; the release has annealed=False.
    """
    weights = {
        "supervised": 1.0,
        "consistency": unsupervised_weight,
        "weak_auxiliary": weak_weight_auxiliary,
        "weak_main": weak_weight_main,
    }
    if min(weights.values()) < 0:
        raise ValueError(f"weights must not be negative, got {weights}")
    threshold = truth_threshold(step, total_steps, model.num_labels) if annealed else None
    terms = {"supervised": cross_entropy(model(images), masks, threshold, min_kept)}
    if weak_images is not None:
        rise = ramp_up(step, ramp * total_steps)
        wanted = [name for name in weights if weights[name] > 0]
        agree = partial(consistency, reduction=reduction, confidence=confidence)
        terms |= _weak_terms(model, weak_images, pseudo_masks, wanted, agree, generator)
        weights["consistency"] *= rise
        weights["weak_auxiliary"] *= rise
    elif pseudo_masks is not None:
        raise ValueError("pseudo_masks came without weak_images")
    weighted = (weights[name] * term for name, term in terms.items())
    loss = sum(weighted, start=torch.zeros(()))
    return loss, {name: terms.get(name, torch.zeros(())) for name in weights}


def cct_training_loss(*, steps: int, generator: Generator, **settings: Any) -> Loss:
    """`cct_loss` for `training.train`, which lasts `steps` steps; settings: its own.

    A batch: (images, masks, weak images, pseudo masks), the last two may be None. A micro-batch
    weighs as much as its share of labelled pixels; with ab-CE, which counts some of these, and for
    the weak pictures that is nearly, not exactly the whole batch's gradient.
    """

    def loss(model: CCT, batch: MixedBatch, done: float) -> LossAndParts:
        step = round(done * steps)
        return cct_loss(
            model, *batch, step=step, total_steps=steps, generator=generator, **settings
        )

    return Counted(loss, lambda batch: (batch[1] != IGNORE).sum())


def _weak_terms(
    model: CCT,
    images: Tensor,
    pseudo_masks: Tensor | None,
    wanted: Sequence[str],
    agree: Callable[[Tensor, Tensor], Tensor],
    generator: Generator,
) -> dict[str, Tensor]:
    z = model.encode(images)
    main = model.main_decoder(z).float()
    if {"consistency", "weak_auxiliary"} & set(wanted):
        auxiliary = model.auxiliary_scores(z, main.detach(), generator)
        if not auxiliary:
            raise ValueError(
                "the model has no auxiliary decoders: give CCT some perturbations, or "
                "set unsupervised_weight and weak_weight_auxiliary to 0"
            )
    terms = {}
    if "consistency" in wanted:
        apart = [agree(a, main) for a in auxiliary]
        terms["consistency"] = torch.stack(apart).mean()
    if pseudo_masks is None:
        if {"weak_auxiliary", "weak_main"} & set(wanted):
            raise ValueError("no pseudo masks: give them, or set both weak weights to 0")
        return terms
    pseudo_masks = _thin_out(pseudo_masks, main.shape[-2:])
    if "weak_auxiliary" in wanted:
        wrong = [cross_entropy(a, pseudo_masks) for a in auxiliary]
        terms["weak_auxiliary"] = torch.stack(wrong).mean()
    if "weak_main" in wanted:
        terms["weak_main"] = cross_entropy(main, pseudo_masks)
    return terms


def _thin_out(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Every so-many-th pixel of masks (B, H, W), so that they fit coarser scores."""
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    return F.interpolate(masks[:, None].float(), tuple(size), mode="nearest-exact")[:, 0].long()
