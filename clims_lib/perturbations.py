"""The seven perturbations of cross-consistency training (Ouali et al., CVPR 2020, section 3.3).

An auxiliary decoder sees the features in one of these ways and must still agree with the main
decoder. Each takes features z (B, C, h, w) to perturbed ones of the same shape. Notebook 06 shows
them on features. Where the authors' released code differs, an option has both; RELEASED collects
its values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from clims_lib.contours import Contour, outer_contours


def feature_drop(
    z: Tensor, generator: Generator, low: float = 0.6, high: float = 0.9, shared: bool = False
) -> Tensor:
    """Zero the most active region: where the channels' mean reaches U(low, high) of its maximum.

    shared, as released: one draw for the whole batch instead of one a picture.
    """
    activity = z.mean(1, keepdim=True)
    share = _uniform((1 if shared else len(z), 1, 1, 1), low, high, z, generator)
    return z * (activity < share * activity.amax((2, 3), keepdim=True))


def feature_noise(
    z: Tensor, generator: Generator, strength: float = 0.3, shared: bool = False
) -> Tensor:
    """Change every value by up to `strength` of itself, so the noise fits the signal's size.

    shared, as released: all pictures of the batch get the same noise.
    """
    shape = (1, *z.shape[1:]) if shared else z.shape
    return z * (1 + _uniform(shape, -strength, strength, z, generator))


def dropout(z: Tensor, generator: Generator, rate: float = 0.5) -> Tensor:
    """Zero whole channels (spatial dropout) and scale the others by 1 / (1 - rate)."""
    keep = _uniform((*z.shape[:2], 1, 1), 0, 1, z, generator) >= rate
    return z * keep / (1 - rate)


def object_mask(z: Tensor, prediction: Tensor, mode: str = "nearest-exact") -> Tensor:
    """Zero what the prediction (B, L, any size) takes for an object: guess it from its context.

    mode: the pixel that speaks for a place of z, the middle one, or, as released ("nearest"), the
    first one, up to a place's size away.
    """
    return z * (_labels_at(z, prediction, mode) == 0)


def context_mask(z: Tensor, prediction: Tensor, mode: str = "nearest-exact") -> Tensor:
    """Zero the predicted background: know the object without its context. mode: see `object_mask`.

    (The release's "object masking" and "context masking" do what these names say there, too.)
    """
    return z * (_labels_at(z, prediction, mode) > 0)


def guided_cutout(
    z: Tensor,
    prediction: Tensor,
    generator: Generator,
    erase: float = 0.4,
    rule: str = "ours",
    contours: Sequence[Sequence[Contour]] | None = None,
) -> Tensor:
    """Zero a random box inside every predicted object's box, with `erase` times its sides.

    rule "ours": one object a label and picture. "released": see `released_cuts`; contours: those of
    the prediction, where they are known already. Raises ValueError for other rules.
    """
    if rule == "released":
        if contours is None:
            contours = contours_of(prediction)

        def draw(highest: int) -> int:
            return int(torch.randint(highest + 1, (), generator=generator, device=generator.device))

        keep = released_cuts(contours, prediction.shape[-2:], erase, draw)
        return z * F.interpolate(keep[:, None], z.shape[-2:], mode="nearest").to(z)
    if rule != "ours":
        raise ValueError(f"rule is {rule!r}; choose 'ours' or 'released'")
    labels = _labels_at(z, prediction)[:, 0].cpu()
    keep = torch.ones(labels.shape)
    for picture, kept in zip(labels, keep, strict=True):
        for label in picture[picture > 0].unique():
            rows, columns = torch.nonzero(picture == label, as_tuple=True)
            kept[_cut(rows, erase, generator), _cut(columns, erase, generator)] = 0
    return z * keep[:, None].to(z)


def contours_of(prediction: Tensor) -> list[list[Contour]]:
    """The outlines of each picture's foreground, all labels together, in scores (B, L, H, W)."""
    return [outer_contours(objects) for objects in (prediction.argmax(1) > 0).cpu()]


def released_cuts(
    contours: Sequence[Sequence[Contour]],
    size: Sequence[int],
    erase: float,
    draw: Callable[[int], int],
) -> Tensor:
    """What CCT's released cut-out keeps of pictures of a size (H, W): 1 or 0, (B, H, W).

    Only regions whose outline turns more than 50 times are cut, so never a rectangle, a small or a
    smooth one. draw(n): a random integer in 0 .. n, the box's place; columns are drawn first.
    """
    keep = torch.ones(len(contours), *size)
    for found, kept in zip(contours, keep, strict=True):
        for top, left, bottom, right, turns in found:
            if turns > 50:
                wide, high = right - left, bottom - top  # one pixel less than there are
                x = left + draw(int(wide * (1 - erase)))
                y = top + draw(int(high * (1 - erase)))
                kept[y : y + int(high * erase), x : x + int(wide * erase)] = 0
    return keep


def i_vat(
    z: Tensor,
    decoder: nn.Module,
    generator: Generator,
    xi: float = 0.1,
    eps: float = 2.0,
    form: str = "ours",
) -> Tensor:
    """Intermediate virtual adversarial training: the step of length eps that `decoder` likes least.

    form "ours" starts from a normal direction, "released" from a uniform one and divides by lengths
    plus 1e-8. The released xi, 1e-6, drowns in float32's rounding, and its step is about a
    thousandth of eps long, since that 1e-8 wins; 0.1 is the release's own default, which its
    settings override. Raises ValueError for other forms.
    """
    if form not in ("ours", "released"):
        raise ValueError(f"form is {form!r}; choose 'ours' or 'released'")
    small = 0.0 if form == "ours" else 1e-8
    if small:
        start = _uniform(z.shape, -0.5, 0.5, z.float(), generator)
    else:
        start = torch.randn(z.shape, generator=generator, device=generator.device).to(z.device)
    return z + adversarial_step(z, decoder, start, xi=xi, eps=eps, small=small).to(z)


def adversarial_step(
    z: Tensor,
    decoder: nn.Module,
    start: Tensor,
    *,
    xi: float,
    eps: float,
    small: float = 0.0,
    iterations: int = 1,
) -> Tensor:
    """The step (B, C, h, w) of length eps that changes decoder(z) most, from a random direction.

    Near z the KL divergence between decoder(z) and decoder(z + r) is a quadratic form in r; a power
    iteration from `start`, at length xi, turns r towards its steepest axis (Miyato et al., 2018).
    small: added to every length before it divides. No gradient flows through the step, nor into the
    decoder while looking for it.
    """
    z = z.detach().to(torch.promote_types(z.dtype, torch.float32))
    direction = _unit(start.to(z), small)
    with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
        before = decoder(z).log_softmax(1).detach()
        for _ in range(iterations):
            direction = direction.detach().requires_grad_()
            after = decoder(z + xi * direction).log_softmax(1)
            divergence = F.kl_div(after, before, log_target=True, reduction="sum")
            if small:  # where the gradient's size matters: the release's is of the batch's mean
                divergence = divergence / len(z)
            (gradient,) = torch.autograd.grad(divergence, direction)
            direction = _unit(gradient, small)
    return eps * direction


def _is_option(parameter: Parameter) -> bool:
    return parameter.default not in (Parameter.empty, None)


# What each one needs: they are called with z, the main decoder's prediction (B, L, any size), the
# auxiliary decoder that will see the result, and a generator.
PERTURBATIONS: dict[str, Callable[..., Tensor]] = {
    "feature_drop": lambda z, p, d, g, **options: feature_drop(z, g, **options),
    "feature_noise": lambda z, p, d, g, **options: feature_noise(z, g, **options),
    "dropout": lambda z, p, d, g, **options: dropout(z, g, **options),
    "object_mask": lambda z, p, d, g, **options: object_mask(z, p, **options),
    "context_mask": lambda z, p, d, g, **options: context_mask(z, p, **options),
    "guided_cutout": lambda z, p, d, g, **options: guided_cutout(z, p, g, **options),
    "i_vat": lambda z, p, d, g, **options: i_vat(z, d, g, **options),
}
OPTIONS = {  # of each: the options that a caller may set, with their defaults
    f.__name__: {n: p.default for n, p in signature(f).parameters.items() if _is_option(p)}
    for f in (feature_drop, feature_noise, dropout, object_mask, context_mask, guided_cutout, i_vat)
}
RELEASED: dict[
    str, dict[str, Any]
] = {  # the options of the authors' released settings; i_vat's xi is an accident
    "feature_drop": {"shared": True},
    "feature_noise": {"shared": True},
    "object_mask": {"mode": "nearest"},
    "context_mask": {"mode": "nearest"},
    "guided_cutout": {"rule": "released"},
    "i_vat": {"form": "released", "xi": 1e-6},
}
RELEASED_NUMBERS = {  # auxiliary decoders of each kind, in the release's order; 30 in all
    "i_vat": 2,
    "dropout": 6,
    "guided_cutout": 6,
    "context_mask": 2,
    "object_mask": 2,
    "feature_drop": 6,
    "feature_noise": 6,
}


def _uniform(
    shape: Sequence[int], low: float, high: float, like: Tensor, generator: Generator
) -> Tensor:
    # drawn where the generator lives: one on the CPU draws the same numbers for every device
    return (
        torch.empty(shape, device=generator.device)
        .uniform_(low, high, generator=generator)
        .to(like)
    )


def _unit(x: Tensor, small: float = 0.0) -> Tensor:
    lengths = x.flatten(1).norm(dim=1).clamp(min=1e-20) + small
    return x / lengths.view(-1, 1, 1, 1)


def _labels_at(z: Tensor, prediction: Tensor, mode: str = "nearest-exact") -> Tensor:
    """The predicted labels at z's own size, (B, 1, h, w)."""
    if mode not in ("nearest-exact", "nearest"):
        raise ValueError(f"mode is {mode!r}; choose 'nearest-exact' or 'nearest'")
    labels = prediction.argmax(1, keepdim=True).float()
    return F.interpolate(labels, z.shape[-2:], mode=mode).long()


def _cut(positions: Tensor, erase: float, generator: Generator) -> slice:
    first, extent = int(positions.min()), int(positions.max() - positions.min()) + 1
    length = max(1, round(erase * extent))
    free = extent - length + 1
    start = int(torch.randint(free, (), generator=generator, device=generator.device))
    return slice(first + start, first + start + length)
