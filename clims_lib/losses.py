"""The four CLIMS losses (Xie et al., CVPR 2022, section 3.3) and their weighted sum.

Everything here is a function of cosine similarities `s` and activation maps, so every term can be
worked out by hand. Shapes: B pictures, K classes, L background texts. Notebook 02 derives them.
`TERMS` lists them by name: the oracle check, the ablations and the claims follow it. `Forms` says
how they add up over a batch, where the paper leaves it open and its two releases differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clims_lib.config import did_you_mean
from clims_lib.devices import place

EPSILON = 1e-4  # similarities are clamped to [EPSILON, 1 - EPSILON]: log 0 is never taken

# How values (B, K) of the present classes, 0 for the others, add up over a batch. A pair is a
# picture and a class that it holds.
REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "image_mean": lambda values, labels: values.sum(1).mean(),
    "pair_mean": lambda values, labels: values.sum() / labels.sum().clamp(min=1),
    "pair_sum": lambda values, labels: values.sum(),
}
COUNTS: dict[str, Callable[[Tensor], Tensor | int | None]] = {  # what each is a mean of, if it is
    "image_mean": len,
    "pair_mean": lambda labels: labels.sum(),
    "pair_sum": lambda labels: None,
}


@dataclass(frozen=True)
class Forms:
    """How OTM, BTM and CBS are put together; by default the equations' mean over pictures.

    otm_btm, cbs: names in REDUCTIONS; both releases have "pair_mean" and "pair_sum". clamped: the
    terms whose similarities are clamped (camera-ready: none; improved release: otm, btm); in the
    others a similarity outside (0, 1) may give inf or nan. class_weights: one a class, of OTM and
    BTM, by which a mean does not divide; () where all weigh 1. Raises ValueError for other names.
    """

    otm_btm: str = "image_mean"
    cbs: str = "image_mean"
    clamped: tuple[str, ...] = ("otm", "btm", "cbs")
    class_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in (self.otm_btm, self.cbs):
            if name not in REDUCTIONS:
                raise ValueError(f"no reduction {name!r}{did_you_mean(name, REDUCTIONS)}")
        for name in self.clamped:
            if name not in ("otm", "btm", "cbs"):
                raise ValueError(f"only otm, btm and cbs can be clamped, not {name!r}")


EQUATIONS = Forms()


def class_weights(classes: Sequence[str], table: Mapping[str, float]) -> tuple[float, ...]:
    """Forms.class_weights from {class: weight}; 1 for the others. ValueError: no such class."""
    for name in table:
        if name not in classes:
            raise ValueError(
                f"a weight for the unknown class {name!r}{did_you_mean(name, classes)}"
            )
    return tuple(float(table.get(name, 1.0)) for name in classes) if table else ()


def _single(x: Tensor) -> Tensor:
    """Half precision -> single; double stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _clamp(s: Tensor, clamped: bool) -> Tensor:
    return _single(s).clamp(EPSILON, 1 - EPSILON) if clamped else _single(s)


def _present(similarity: Tensor, labels: Tensor) -> Tensor:
    """The similarities, 0.5 where a class is absent: whatever stands there takes no part."""
    if similarity.shape[:2] != labels.shape:
        raise ValueError(
            f"similarities {tuple(similarity.shape)} and labels {tuple(labels.shape)} must agree "
            "in their first two dimensions (pictures, classes)"
        )
    absent = (labels == 0).view(*labels.shape, *[1] * (similarity.ndim - 2))
    return similarity.masked_fill(absent, 0.5)


def _weigh(labels: Tensor, forms: Forms) -> Tensor:
    if not forms.class_weights:
        return labels
    if len(forms.class_weights) != labels.shape[1]:
        raise ValueError(f"{len(forms.class_weights)} class weights, {labels.shape[1]} classes")
    return labels * place(torch.tensor(forms.class_weights), labels.device)


def otm_loss(s_object: Tensor, labels: Tensor, forms: Forms = EQUATIONS) -> Tensor:
    """L_OTM = - sum_k y_k log s(object image, object text): the object must be inside the mask.

    s_object: (B, K) cosine similarities of x * P_k with the text of class k; labels: (B, K) in
    {0, 1}. Returns a scalar, by default the mean over the pictures. Raises ValueError when shapes
    differ. (Eq. 2)
    """
    s = _clamp(_present(s_object, labels), "otm" in forms.clamped)
    return REDUCTIONS[forms.otm_btm](-_weigh(labels, forms) * s.log(), labels)


def btm_loss(s_rest: Tensor, labels: Tensor, forms: Forms = EQUATIONS) -> Tensor:
    """L_BTM = - sum_k y_k log(1 - s(rest image, object text)): nothing of it may be left outside.

    s_rest: (B, K) cosine similarities of x * (1 - P_k) with the text of class k; labels: (B, K).
    Returns a scalar, by default the mean over the pictures. Raises ValueError when shapes differ.
    (Eq. 3)
    """
    s = _clamp(_present(s_rest, labels), "btm" in forms.clamped)
    return REDUCTIONS[forms.otm_btm](-_weigh(labels, forms) * (1 - s).log(), labels)


def cbs_loss(
    s_background: Tensor, labels: Tensor, threshold: float | None = None, forms: Forms = EQUATIONS
) -> Tensor:
    """L_CBS = - sum_k sum_l y_k log(1 - s(object image, background text l)): no ground in the mask.

    s_background: (B, K, L) similarities of x * P_k with L background texts, NaN where class k has
    fewer than L of them: 0 without any; labels: (B, K). Two published variants: `threshold=None`
    averages over a class's own texts; a number (published: 0.26) sums only the similarities above
    it. Returns a scalar, by default the mean over the pictures; class weights play no part here.
    Raises ValueError when shapes differ. (Eq. 4)
    """
    s = _present(s_background, labels)
    exists, s = ~s.isnan(), s.nan_to_num(0.0)
    terms = -(1 - _clamp(s, "cbs" in forms.clamped)).log() * exists
    if threshold is None:
        per_class = terms.sum(2) / exists.sum(2).clamp(min=1)
    else:
        per_class = (terms * (s > threshold)).sum(2)
    return REDUCTIONS[forms.cbs](labels * per_class, labels)


def area_loss(cams: Tensor) -> Tensor:
    """L_REG = (1/K) sum_k mean(P_k): a small mask is a better mask, all else being equal.

    cams: (B, K, h, w) activations in [0, 1]. Returns the mean over the batch, a scalar. (Eq. 5)
    """
    if cams.ndim != 4:
        raise ValueError(f"cams must be (B, K, h, w), got {tuple(cams.shape)}")
    return _single(cams).mean()


def class_maps(maps: Tensor, num_classes: int) -> Tensor:
    """The K classes' own maps: (B, K, h, w), or (B, K + 1, h, w) with the background's first.

    The camera-ready release has such a background map, which no loss sees. Raises ValueError for
    another number of maps.
    """
    if maps.shape[1] - num_classes not in (0, 1):
        raise ValueError(
            f"{maps.shape[1]} maps for {num_classes} classes: a network has one a class, or one "
            "more in front, the background's"
        )
    return maps[:, -num_classes:]


class Measured(NamedTuple):
    """What a term may be a function of; shapes as above."""

    s_object: Tensor
    s_rest: Tensor
    s_background: Tensor
    cams: Tensor
    labels: Tensor
    cbs_threshold: float | None
    forms: Forms = EQUATIONS


# A further term is a function, an entry here, and a weight in a profile's [losses.weights].
TERMS: dict[str, Callable[[Measured], Tensor]] = {
    "otm": lambda m: otm_loss(m.s_object, m.labels, m.forms),
    "btm": lambda m: btm_loss(m.s_rest, m.labels, m.forms),
    "cbs": lambda m: cbs_loss(m.s_background, m.labels, m.cbs_threshold, m.forms),
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
    forms: Forms = EQUATIONS,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L = a L_OTM + b L_BTM + g L_CBS + d L_REG (Eq. 6).

    weights: {name in TERMS: number}; the paper's are otm 10, btm 24, cbs 1, reg 0.2. Returns
    (scalar loss, all unweighted terms by name). Raises ValueError for a weight of no known term.
    """
    measured = Measured(s_object, s_rest, s_background, cams, labels, cbs_threshold, forms)
    terms = {name: term(measured) for name, term in TERMS.items()}
    return weighted_sum(terms, weights), terms


def cut_out(
    images: Tensor, cams: Tensor, labels: Tensor, align_corners: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Object images x * P_k and rest images x * (1 - P_k) of the present classes, one batch each.

    images: (B, 3, H, W) already normalised for CLIP, so that a masked pixel becomes the mean
    colour; cams: (B, K, h, w) in [0, 1], resized to the pictures, corner pixels on corners where
    align_corners (as released); labels: (B, K), on the CPU best: a GPU that is asked which are
    present must finish all else first.
    Returns (objects (P, 3, H, W), rests (P, 3, H, W), picture index (P,), class index (P,)) for the
    P pairs of a picture and a class it holds. Raises ValueError when no class is present, or when
    the maps are not one a class.
    """
    if cams.shape[:2] != labels.shape:
        raise ValueError(
            f"maps {tuple(cams.shape)} and labels {tuple(labels.shape)} must agree in pictures and "
            "classes: class_maps leaves a background's out"
        )
    picture, klass = (place(found, cams.device) for found in labels.nonzero(as_tuple=True))
    if len(picture) == 0:
        raise ValueError("no class is present in this batch: CLIMS needs image-level labels")
    masks = cams[picture, klass][:, None]
    if masks.shape[-2:] != images.shape[-2:]:
        masks = torch.nn.functional.interpolate(
            masks, images.shape[-2:], mode="bilinear", align_corners=align_corners
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
    align_corners: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """All similarities the losses need, with one call of CLIP's image encoder.

    encode: (N, 3, H, W) -> (N, D) unit vectors; class_text: (K, D) unit vectors; background_text:
    (K, L, D) unit vectors, NaN rows where a class has fewer than L texts; the rest: see `cut_out`.
    Returns s_object (B, K), s_rest (B, K), s_background (B, K, L); entries of absent classes are
    0.5 and take no part.
    """
    objects, rests, picture, klass = cut_out(images, cams, labels, align_corners)
    features = _single(encode(torch.cat([objects, rests])))
    seen, left = features.chunk(2)
    s_object = features.new_full(labels.shape, 0.5)
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
