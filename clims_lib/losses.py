"""The four CLIMS losses (Xie et al., CVPR 2022, section 3.3) and their weighted sum.

Everything here is a function of cosine similarities `s` and activation maps, so every term can be
worked out by hand. Shapes: B pictures, K classes, L background texts. Notebook 02 derives them.
`TERMS` lists them by name: the oracle check, the ablations and the claims follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clims_lib.config import did_you_mean

EPSILON = 1e-4  # cosine similarities are clamped to [EPSILON, 1 - EPSILON]: log 0 is never taken


def _log(s: Tensor) -> Tensor:
    return s.float().clamp(EPSILON, 1 - EPSILON).log()


def _log_not(s: Tensor) -> Tensor:
    return (1 - s.float().clamp(EPSILON, 1 - EPSILON)).log()


def _check(similarity: Tensor, labels: Tensor) -> None:
    if similarity.shape[:2] != labels.shape:
        raise ValueError(
            f"similarities {tuple(similarity.shape)} and labels {tuple(labels.shape)} must agree "
            "in their first two dimensions (pictures, classes)"
        )


def otm_loss(s_object: Tensor, labels: Tensor) -> Tensor:
    """L_OTM = - sum_k y_k log s(object image, object text): the object must be inside the mask.

    s_object: (B, K) cosine similarities of x * P_k with the text of class k; labels: (B, K) in
    {0, 1}. Returns the mean over the batch, a scalar. Raises ValueError when shapes differ. (Eq. 2)
    """
    _check(s_object, labels)
    return -(labels * _log(s_object)).sum(1).mean()


def btm_loss(s_rest: Tensor, labels: Tensor) -> Tensor:
    """L_BTM = - sum_k y_k log(1 - s(rest image, object text)): nothing of it may be left outside.

    s_rest: (B, K) cosine similarities of x * (1 - P_k) with the text of class k; labels: (B, K).
    Returns the mean over the batch, a scalar. Raises ValueError when shapes differ. (Eq. 3)
    """
    _check(s_rest, labels)
    return -(labels * _log_not(s_rest)).sum(1).mean()


def cbs_loss(s_background: Tensor, labels: Tensor, threshold: float | None = None) -> Tensor:
    """L_CBS = - sum_k sum_l y_k log(1 - s(object image, background text l)): no ground in the mask.

    s_background: (B, K, L) similarities of x * P_k with L background texts, NaN where class k has
    fewer than L of them; labels: (B, K). Two published variants: `threshold=None` averages over a
    class's own texts; a number (published: 0.26) sums only the similarities above it.
    Returns the mean over the batch, a scalar. Raises ValueError when shapes differ. (Eq. 4)
    """
    _check(s_background, labels)
    exists = ~s_background.isnan()
    terms = -_log_not(s_background.nan_to_num(0.0)) * exists
    if threshold is None:
        per_class = terms.sum(2) / exists.sum(2).clamp(min=1)
    else:
        per_class = (terms * (s_background.nan_to_num(0.0) > threshold)).sum(2)
    return (labels * per_class).sum(1).mean()


def area_loss(cams: Tensor) -> Tensor:
    """L_REG = (1/K) sum_k mean(P_k): a small mask is a better mask, all else being equal.

    cams: (B, K, h, w) activations in [0, 1]. Returns the mean over the batch, a scalar. (Eq. 5)
    """
    if cams.ndim != 4:
        raise ValueError(f"cams must be (B, K, h, w), got {tuple(cams.shape)}")
    return cams.float().mean()


class Measured(NamedTuple):
    """What a term may be a function of; shapes as above."""

    s_object: Tensor
    s_rest: Tensor
    s_background: Tensor
    cams: Tensor
    labels: Tensor
    cbs_threshold: float | None


# A further term is a function, an entry here, and a weight in a profile's [losses.weights].
TERMS: dict[str, Callable[[Measured], Tensor]] = {
    "otm": lambda m: otm_loss(m.s_object, m.labels),
    "btm": lambda m: btm_loss(m.s_rest, m.labels),
    "cbs": lambda m: cbs_loss(m.s_background, m.labels, m.cbs_threshold),
    "reg": lambda m: area_loss(m.cams),
}


def check_weights(weights: Mapping[str, float]) -> None:
    """Raise ValueError for weights of no term at all, or of one that is not in TERMS."""
    if not weights:
        raise ValueError(f"no term has a weight; known: {', '.join(TERMS)}")
    for name in weights:
        if name not in TERMS:
            raise ValueError(f"no loss term {name!r}{did_you_mean(str(name), TERMS)}")


def weighted_sum(terms: Mapping, weights: Mapping[str, float]) -> Any:
    """Sum of weight x term in the order of TERMS; a term without weight takes no part.

    terms: {name: scalar tensor or number}. Raises ValueError as `check_weights` does.
    """
    check_weights(weights)
    return sum(weights[name] * terms[name] for name in TERMS if name in weights)


def clims_loss(
    s_object: Tensor,
    s_rest: Tensor,
    s_background: Tensor,
    cams: Tensor,
    labels: Tensor,
    *,
    weights: Mapping[str, float],
    cbs_threshold: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = a L_OTM + b L_BTM + g L_CBS + d L_REG (Eq. 6).

    weights: {name in TERMS: number}; the paper's are otm 10, btm 24, cbs 1, reg 0.2. Returns
    (scalar loss, all unweighted terms by name). Raises ValueError for a weight of no known term.
    """
    measured = Measured(s_object, s_rest, s_background, cams, labels, cbs_threshold)
    terms = {name: term(measured) for name, term in TERMS.items()}
    return weighted_sum(terms, weights), terms


def cut_out(images: Tensor, cams: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Object images x * P_k and rest images x * (1 - P_k) of the present classes, one batch each.

    images: (B, 3, H, W) already normalised for CLIP, so that a masked pixel becomes the mean
    colour; cams: (B, K, h, w) in [0, 1], resized to the pictures; labels: (B, K).
    Returns (objects (P, 3, H, W), rests (P, 3, H, W), picture index (P,), class index (P,)) for the
    P pairs of a picture and a class it holds. Raises ValueError when no class is present.
    """
    picture, klass = labels.nonzero(as_tuple=True)
    if len(picture) == 0:
        raise ValueError("no class is present in this batch: CLIMS needs image-level labels")
    masks = cams[picture, klass][:, None]
    if masks.shape[-2:] != images.shape[-2:]:
        masks = torch.nn.functional.interpolate(
            masks, images.shape[-2:], mode="bilinear", align_corners=False
        )
    chosen = images[picture]
    return chosen * masks, chosen * (1 - masks), picture, klass


def similarities(
    encode: Callable[[Tensor], Tensor],
    images: Tensor,
    cams: Tensor,
    labels: Tensor,
    class_text: Tensor,
    background_text: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """All similarities the losses need, with one call of CLIP's image encoder.

    encode: (N, 3, H, W) -> (N, D) unit vectors; class_text: (K, D) unit vectors; background_text:
    (K, L, D) unit vectors, NaN rows where a class has fewer than L texts. Returns s_object (B, K),
    s_rest (B, K), s_background (B, K, L); entries of absent classes are 0.5 and take no part.
    """
    objects, rests, picture, klass = cut_out(images, cams, labels)
    features = encode(torch.cat([objects, rests])).float()
    seen, left = features.chunk(2)
    s_object = torch.full(labels.shape, 0.5, device=images.device)
    s_rest, s_background = (
        s_object.clone(),
        s_object[..., None].repeat(1, 1, background_text.shape[1]),
    )
    at = (picture, klass)
    s_object = s_object.index_put(at, (seen * class_text[klass]).sum(-1))
    s_rest = s_rest.index_put(at, (left * class_text[klass]).sum(-1))
    texts = background_text[klass]
    scores = (seen[:, None] * texts.nan_to_num(0.0)).sum(-1)  # no matmul: autocast would round it
    scores = scores.masked_fill(texts.isnan().any(-1), float("nan"))
    return s_object, s_rest, s_background.index_put(at, scores)
