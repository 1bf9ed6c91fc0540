"""Cross-consistency training, CCT: semi-supervised segmentation (Ouali et al., CVPR 2020).

A few pictures have pixel labels, most have none. Encoder and main decoder learn from the few; on
the others, auxiliary decoders see perturbed features and must agree with the main decoder, which
sees the features as they are. Pseudo masks made from image-level labels (section 3.4; here from
CLIMS) can be learnt besides. Only encoder and main decoder segment at test time.

The network is in cct_network.py. Shapes: B pictures of H x W pixels, L = K + 1 labels with the
background as 0; 255 in a mask is ignored. Derived in notebook 06.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from clims_lib.cct_network import CCT
from clims_lib.labels import IGNORE

Batches = Callable[[int], Iterable[tuple[Tensor, Tensor | None]]]


# ---- Losses -------------------------------------------------------------------------------------


def ramp_up(step: float, length: float) -> float:
    """exp(-5 (1 - t)^2), t = step / length: 0.007 at first, 1 from `length` on (section 3.2)."""
    t = min(step / length, 1.0) if length > 0 else 1.0
    return math.exp(-5 * (1 - t) ** 2)


def truth_threshold(step: int, total_steps: int, num_labels: int) -> float:
    """eta(t): from 1/L to 0.9 as 1 - exp(-5t) over the first 40 % of training (section 3.5)."""
    t = min(step / (0.4 * total_steps), 1.0)
    return 1 / num_labels + (0.9 - 1 / num_labels) * (1 - math.exp(-5 * t))


def cross_entropy(scores: Tensor, masks: Tensor, threshold: float | None = None) -> Tensor:
    """Mean cross entropy of scores (B, L, H, W) over the labelled pixels of masks (B, H, W).

    With a threshold eta it is the annealed bootstrapped form, ab-CE (Eq. 3): only pixels whose true
    label has a predicted probability below eta count, so the few labelled pictures are not learnt
    by heart. 0 where no pixel counts. Raises ValueError when the shapes do not fit.
    """
    if scores[:, 0].shape != masks.shape:
        raise ValueError(
            f"scores (B, L, H, W) {tuple(scores.shape)} do not fit masks (B, H, W) "
            f"{tuple(masks.shape)}"
        )
    losses = F.cross_entropy(scores, masks.long(), ignore_index=IGNORE, reduction="none")
    counts = masks != IGNORE
    if threshold is not None:
        counts = counts & ((-losses.detach()).exp() < threshold)
    return (losses * counts).sum() / counts.sum().clamp(min=1)


def consistency(auxiliary: Tensor, main: Tensor, reduction: str = "mean") -> Tensor:
    """Squared difference of two predictions' softmaxes, from scores (B, L, H, W) each (Eq. 2).

    The main decoder is the teacher: no gradient flows into it. "mean" averages over everything, as
    published; "sum_labels" sums over the L labels and averages over pixels, so it is L times larger
    and a weight means the same for any number of labels. Raises ValueError for other reductions.
    """
    if reduction not in ("mean", "sum_labels"):
        raise ValueError(f"reduction is {reduction!r}; choose 'mean' or 'sum_labels'")
    squares = (auxiliary.softmax(1) - main.detach().softmax(1)) ** 2
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
    annealed: bool = True,
) -> tuple[Tensor, dict[str, float]]:
    """The whole loss of one step and its unweighted terms (sections 3.2 and 3.4).

        supervised + r(t) (unsupervised_weight consistency + weak_weight_auxiliary weak_auxiliary)
        + weak_weight_main weak_main

    supervised: ab-CE (CE if not `annealed`) of the main decoder on images (B, 3, H, W), normalised,
    and masks (B, H, W). On weak_images: consistency of the auxiliary decoders with the main one, CE
    of the auxiliary decoders and, not in the paper, of the main one on pseudo_masks. r rises over
    the share `ramp` of training. Without weak_images: supervised alone. Raises ValueError when
    something that a weight asks for is missing. Defaults are the published settings.
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
    terms = {"supervised": cross_entropy(model(images), masks, threshold)}
    if weak_images is not None:
        rise = ramp_up(step, ramp * total_steps)
        wanted = [name for name in weights if weights[name] > 0]
        terms |= _weak_terms(model, weak_images, pseudo_masks, wanted, reduction, generator)
        weights["consistency"] *= rise
        weights["weak_auxiliary"] *= rise
    elif pseudo_masks is not None:
        raise ValueError("pseudo_masks came without weak_images")
    weighted = (weights[name] * term for name, term in terms.items())
    loss = sum(weighted, start=images.new_zeros(()))
    parts = {name: terms[name].item() if name in terms else 0.0 for name in weights}
    return loss, parts | {"loss": loss.item()}


def _weak_terms(
    model: CCT,
    images: Tensor,
    pseudo_masks: Tensor | None,
    wanted: Sequence[str],
    reduction: str,
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
        apart = [consistency(a, main, reduction) for a in auxiliary]
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


# ---- Training -----------------------------------------------------------------------------------


def learning_rate(step: int, steps: int, lr: float, schedule: str = "cosine") -> float:
    """lr x (1 + cos(pi t)) / 2, or "poly" (published): lr x (1 - t)^0.9, with t = step / steps."""
    if schedule not in ("cosine", "poly"):
        raise ValueError(f"schedule is {schedule!r}; choose 'cosine' or 'poly'")
    t = step / steps
    return lr * (0.5 * (1 + math.cos(math.pi * t)) if schedule == "cosine" else (1 - t) ** 0.9)


def train_cct_network(
    model: CCT,
    labelled: Batches,
    weak: Batches | None = None,
    *,
    steps: int,
    lr: float,
    generator: Generator,
    weight_decay: float = 1e-4,
    schedule: str = "cosine",
    bf16: bool = False,
    progress: Callable[[int, dict], None] | None = None,
    save: Callable[[dict], None] | None = None,
    save_every: int = 100,
    state: dict | None = None,
    **loss_settings: Any,
) -> list[dict[str, float]]:
    """Train in place with AdamW and return every step's loss parts; `loss_settings`: see cct_loss.

    `labelled(start)` and `weak(start)` yield the batches of steps start, start + 1, ...: normalised
    pictures (B, 3, H, W) float32 with masks or pseudo masks (B, H, W) uint8; weak ones may be None.
    Without `weak`, supervised only. `save(state)` gets all that is needed every `save_every` steps
    and at the end; given back as `state`, training goes on to the same weights. `progress(step,
    parts)` is called after each step. Raises ValueError when batches run out, and
    FloatingPointError when the loss is no longer finite.
    """
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    history: list[dict[str, float]] = []
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        history = list(state["history"])
    start = len(history)
    weak_batches = weak(start) if weak else repeat((None, None))
    batches = zip(range(start, steps), labelled(start), weak_batches, strict=False)
    for step, batch, weak_batch in batches:
        tensors: list = [None if t is None else t.to(device) for t in (*batch, *weak_batch)]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, lr, schedule)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss, parts = cct_loss(
                model, *tensors, step=step, total_steps=steps, generator=generator, **loss_settings
            )
        if not math.isfinite(parts["loss"]):
            raise FloatingPointError(f"the loss is {parts['loss']} at step {step}; lower lr?")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(parts)
        if progress:
            progress(step, parts)
        if save and (len(history) % save_every == 0 or len(history) == steps):
            save(_state(model, optimizer, generator, history))
    if len(history) < steps:
        raise ValueError(f"the batches ran out after {len(history)} of {steps} steps")
    model.eval()
    return history


def _state(
    model: CCT,
    optimizer: torch.optim.Optimizer,
    generator: Generator,
    history: list[dict[str, float]],
) -> dict:
    # copied, because the next step changes the tensors in place
    return copy.deepcopy(
        {
            "step": len(history),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(),
            "history": history,
        }
    )
