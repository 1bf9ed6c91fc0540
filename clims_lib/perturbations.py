"""The seven perturbations of cross-consistency training (Ouali et al., CVPR 2020, section 3.3).

An auxiliary decoder sees the features in one of these ways and must still agree with the main
decoder. Each takes features z (B, C, h, w) to perturbed ones of the same shape. Notebook 06 shows
them on features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn


def feature_drop(z: Tensor, generator: Generator, low: float = 0.6, high: float = 0.9) -> Tensor:
    """Zero the most active region: where the channels' mean reaches U(low, high) of its maximum."""
    activity = z.mean(1, keepdim=True)
    share = _uniform((len(z), 1, 1, 1), low, high, z, generator)
    return z * (activity < share * activity.amax((2, 3), keepdim=True))


def feature_noise(z: Tensor, generator: Generator, strength: float = 0.3) -> Tensor:
    """Change every value by up to `strength` of itself, so the noise fits the signal's size."""
    return z * (1 + _uniform(z.shape, -strength, strength, z, generator))


def dropout(z: Tensor, generator: Generator, rate: float = 0.5) -> Tensor:
    """Zero whole channels (spatial dropout) and scale the others by 1 / (1 - rate)."""
    keep = _uniform((*z.shape[:2], 1, 1), 0, 1, z, generator) >= rate
    return z * keep / (1 - rate)


def object_mask(z: Tensor, prediction: Tensor) -> Tensor:
    """Zero what the prediction (B, L, any size) takes for an object: guess it from its context."""
    return z * (_labels_at(z, prediction) == 0)


def context_mask(z: Tensor, prediction: Tensor) -> Tensor:
    """Zero the predicted background: know the object without its context."""
    return z * (_labels_at(z, prediction) > 0)


def guided_cutout(
    z: Tensor, prediction: Tensor, generator: Generator, erase: float = 0.4
) -> Tensor:
    """Zero a random box inside every predicted object's box, with `erase` times its sides.

    One object a label and picture; the published code boxes every contour instead.
    """
    labels = _labels_at(z, prediction)[:, 0].cpu()
    keep = torch.ones(labels.shape)
    for picture, kept in zip(labels, keep, strict=True):
        for label in picture[picture > 0].unique():
            rows, columns = torch.nonzero(picture == label, as_tuple=True)
            kept[_cut(rows, erase, generator), _cut(columns, erase, generator)] = 0
    return z * keep[:, None].to(z)


def i_vat(
    z: Tensor, decoder: nn.Module, generator: Generator, xi: float = 0.1, eps: float = 2.0
) -> Tensor:
    """Intermediate virtual adversarial training: the step of length eps that `decoder` likes least.

    Near z the KL divergence between decoder(z) and decoder(z + r) is a quadratic form in r; one
    power iteration from a random direction, of length xi, turns r towards its steepest axis (Miyato
    et al., 2018). No gradient flows through the step, nor into the decoder while looking for it.
    The published xi, 1e-6, drowns in float32's rounding; 0.1 is the published code's own default.
    """
    start = z.detach().float()
    with torch.enable_grad(), torch.autocast(z.device.type, enabled=False):
        noise = torch.randn(z.shape, generator=generator, device=generator.device).to(start)
        direction = _unit(noise).requires_grad_()
        before = decoder(start).log_softmax(1).detach()
        after = decoder(start + xi * direction).log_softmax(1)
        divergence = F.kl_div(after, before, log_target=True, reduction="sum")
        (gradient,) = torch.autograd.grad(divergence, direction)
    return z + eps * _unit(gradient).to(z)


# What each one needs: they are called with z, the main decoder's prediction (B, L, any size), the
# auxiliary decoder that will see the result, and a generator.
PERTURBATIONS: dict[str, Callable[[Tensor, Tensor, nn.Module, Generator], Tensor]] = {
    "feature_drop": lambda z, p, d, g: feature_drop(z, g),
    "feature_noise": lambda z, p, d, g: feature_noise(z, g),
    "dropout": lambda z, p, d, g: dropout(z, g),
    "object_mask": lambda z, p, d, g: object_mask(z, p),
    "context_mask": lambda z, p, d, g: context_mask(z, p),
    "guided_cutout": lambda z, p, d, g: guided_cutout(z, p, g),
    "i_vat": lambda z, p, d, g: i_vat(z, d, g),
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


def _unit(x: Tensor) -> Tensor:
    return x / x.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)


def _labels_at(z: Tensor, prediction: Tensor) -> Tensor:
    """The predicted labels at z's own size, (B, 1, h, w)."""
    labels = prediction.argmax(1, keepdim=True).float()
    return F.interpolate(labels, z.shape[-2:], mode="nearest-exact").long()


def _cut(positions: Tensor, erase: float, generator: Generator) -> slice:
    first, extent = int(positions.min()), int(positions.max() - positions.min()) + 1
    length = max(1, round(erase * extent))
    free = extent - length + 1
    start = int(torch.randint(free, (), generator=generator, device=generator.device))
    return slice(first + start, first + start + length)
