"""Dense CRF: sharpen masks to the picture's edges by mean field (Krähenbühl and Koltun 2011).

Every pixel talks to every other one. A Gaussian kernel (near pixels agree) and a bilateral one
(near pixels of like colour agree) weigh the messages; both are normalised symmetrically,
D^-1/2 K D^-1/2, and keep the pixel's own term, as pydensecrf does. Energies are negative log
probabilities, colours lie in [0, 1], so pydensecrf's srgb=13 is bilateral_srgb=13/255 here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clims_lib.labels import IGNORE
from clims_lib.permutohedral import Lattice

EXACT_PIXELS = 1024  # up to here the full kernel is as quick as the lattice
LARGEST_KERNEL = 128 * 128  # pixels; beyond it the full kernel would need gigabytes
ABSENT_ENERGY = 1000.0  # exp(-1000) is 0: no message can bring an absent class back
RELEASED_CRF = {  # the CRF between maps and affinity labels, of IRNet and of both releases of CLIMS
    "gaussian_weight": 3.0,
    "gaussian_sxy": 3.0,
    "bilateral_weight": 10.0,
    "bilateral_sxy": 50.0,
    "bilateral_srgb": 5 / 255,
    "iterations": 10,
}
Filter = Callable[[Tensor], Tensor]  # q (B, H, W, ...) -> its messages, of the same shape


@torch.no_grad()
def dense_crf(unary: Tensor, image: Tensor, *, iterations: int = 10, **kernels: Any) -> Tensor:
    """Return the label probabilities Q (B, ..., L, H, W) of a dense CRF with Potts costs.

    unary (B, ..., L, H, W): energies -log p; image (B, 3, H, W) in [0, 1], on the same device.
    Dimensions between B and L, if any, are several problems on one and the same picture, which
    share its kernels. Each iteration is Q <- softmax(-unary + sum_m w_m K_m Q), algorithm 1 of the
    paper. kernels: message_filters' keywords. ValueError for bad input.
    """
    _check(unary, image, iterations)
    filters = message_filters(image, **kernels)
    # Labels come last: what belongs to one pixel lies together in memory.
    evidence = -unary.float().movedim((-2, -1), (1, 2)).contiguous()
    q = evidence.softmax(-1)
    for _ in range(iterations):
        q = sum((messages(q) for messages in filters), start=evidence).softmax(-1)
    return q.movedim((1, 2), (-2, -1))


def message_filters(
    image: Tensor,
    *,
    gaussian_weight: float = 3.0,
    gaussian_sxy: float = 3.0,
    bilateral_weight: float = 10.0,
    bilateral_sxy: float = 80.0,
    bilateral_srgb: float = 13 / 255,
    exact: bool | None = None,
) -> list[Filter]:
    """Return the functions q -> w_m K_m q, q (B, H, W, ...), of a batch of pictures.

    image (B, 3, H, W) in [0, 1]; sxy in pixels, srgb in colour units of [0, 1]; a weight of 0
    leaves its term out. exact: True computes the kernels for all pairs of pixels, O(N^2); False
    filters on the permutohedral lattice, O(N), an approximation that labels some pixels otherwise
    (1 to 4 % where maps are unsure everywhere, as pydensecrf's own does); None is exact for at most
    1024 pixels. Raises ValueError for scales that are not positive and for negative weights.
    """
    _check_scales(
        gaussian_sxy=gaussian_sxy, bilateral_sxy=bilateral_sxy, bilateral_srgb=bilateral_srgb
    )
    _check_weights(gaussian_weight=gaussian_weight, bilateral_weight=bilateral_weight)
    image, filters = image.float(), []
    if exact is None:
        exact = image[0, 0].numel() <= EXACT_PIXELS
    kernel = _full_kernel if exact else _lattice_kernel
    if gaussian_weight > 0:
        filters.append(kernel(_places(image, gaussian_sxy), gaussian_weight))
    if bilateral_weight > 0:
        places = _places(image, bilateral_sxy)
        features = torch.cat([places, image / bilateral_srgb], dim=1)
        filters.append(kernel(features, bilateral_weight))
    return filters


def unary_from_cam(cam: Tensor, threshold: float, sharpness: float = 8.0) -> Tensor:
    """Energies of [background, classes]: -log softmax(sharpness x [threshold, cam_1 .. cam_K]).

    cam (..., K, H, W) in [0, 1], threshold in [0, 1] -> float32 (..., K + 1, H, W). Its lowest
    energy is cam_to_mask's label. A map that is 0 everywhere, as normalise_cam leaves it, marks an
    absent class, which gets no mass.
    """
    cam = torch.as_tensor(cam).float()
    if cam.ndim < 3 or not bool(((cam >= 0) & (cam <= 1)).all()):
        raise ValueError(
            f"cam must be (..., K, H, W) in [0, 1], not {tuple(cam.shape)} "
            "with values outside it: apply normalise_cam first"
        )
    absent = cam.amax((-2, -1), keepdim=True) == 0
    scores = (sharpness * (cam - threshold)).masked_fill(absent, -math.inf)
    scores = torch.cat([torch.zeros_like(scores[..., :1, :, :]), scores], dim=-3)
    return (-scores.log_softmax(-3)).clamp(max=ABSENT_ENERGY)


def unary_from_labels(mask: Tensor, confidence: float, num_labels: int) -> Tensor:
    """Energies of a mask that is right with probability confidence: -log confidence at its label.

    mask: whole numbers (..., H, W) 0..num_labels-1, 255 = unsure (all labels alike); confidence in
    (0, 1) -> float32 (..., num_labels, H, W). The other labels share 1 - confidence equally.
    """
    mask = torch.as_tensor(mask).long()
    if not 0 < confidence < 1 or num_labels < 2:
        raise ValueError(
            f"need 0 < confidence < 1 and at least 2 labels, not {confidence} and {num_labels}"
        )
    unsure = mask == IGNORE
    if bool(((mask < 0) | (mask >= num_labels) & ~unsure).any()):
        raise ValueError(f"mask holds labels outside 0..{num_labels - 1} and 255")
    labels = torch.arange(num_labels, device=mask.device).view(-1, 1, 1)
    hit = labels == mask.unsqueeze(-3)
    other = -math.log((1 - confidence) / (num_labels - 1))
    energy = torch.where(hit, -math.log(confidence), other)
    return energy.masked_fill(unsure.unsqueeze(-3), math.log(num_labels))


def refine_cam(
    image: Tensor, cam: Tensor, threshold: float, *, sharpness: float = 8.0, **settings: Any
) -> Tensor:
    """Return the CRF's mask of activation maps: uint8 (H, W), or (B, H, W) for a batch.

    image (3, H, W) or (B, 3, H, W) in [0, 1]; cam (K, H, W) or (B, K, H, W) in [0, 1], absent
    classes 0 (normalise_cam); threshold: the background's score; settings: dense_crf's keywords.
    """
    single = cam.ndim == 3
    if single:
        image, cam = image[None], cam[None]
    masks = refine_at(image, cam, [threshold], sharpness=sharpness, **settings)[:, 0]
    return masks[0] if single else masks


def refine_at(
    image: Tensor,
    cam: Tensor,
    thresholds: Sequence[float],
    *,
    sharpness: float = 8.0,
    **settings: Any,
) -> Tensor:
    """`refine_cam` at T thresholds for the price of few: uint8 (B, T, H, W)."""
    # Classes absent from every picture cost time and change nothing.
    present = [0] + [k + 1 for k in range(cam.shape[1]) if bool((cam[:, k] > 0).any())]
    unary = [unary_from_cam(cam, t, sharpness)[:, present] for t in thresholds]
    labels = torch.tensor(present, dtype=torch.uint8, device=cam.device)
    return labels[dense_crf(torch.stack(unary, 1), image, **settings).argmax(-3)]


def refine_labels(
    image: Tensor, masks: Tensor, num_labels: int, *, confidence: float = 0.7, **settings: Any
) -> Tensor:
    """CRF masks of hard ones, as IRNet refines its labels: uint8 (B, ..., H, W) like `masks`.

    image (B, 3, H, W) in [0, 1]; masks: whole numbers 0..num_labels-1, each taken for right with
    probability `confidence`; settings: dense_crf's keywords, by default RELEASED_CRF.
    """
    unary = unary_from_labels(masks, confidence, num_labels)
    return dense_crf(unary, image, **RELEASED_CRF | settings).argmax(-3).to(torch.uint8)


def _places(image: Tensor, sxy: float) -> Tensor:
    """Where each pixel is: (x / sxy, y / sxy), float32 (B, 2, H, W)."""
    batch, _, height, width = image.shape
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=image.device),
        torch.arange(width, dtype=torch.float32, device=image.device),
        indexing="ij",
    )
    return torch.stack([x, y]).expand(batch, 2, height, width) / sxy


def _full_kernel(features: Tensor, weight: float) -> Filter:
    """Exact kernel exp(-|f_i - f_j|^2 / 2) for all pairs of pixels; B x (HW)^2 numbers."""
    points = features.flatten(2).transpose(1, 2).contiguous()
    if points.shape[1] > LARGEST_KERNEL:
        raise ValueError(
            f"exact=True needs all pairs of {points.shape[1]} pixels, at most {LARGEST_KERNEL} "
            "fit in memory: use exact=False, the lattice"
        )
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    kernel = torch.exp(-0.5 * distance**2)
    scale = kernel.sum(2, keepdim=True).rsqrt()
    kernel = weight * scale * kernel * scale.transpose(1, 2)
    return lambda q: (kernel @ q.flatten(1, 2).flatten(2)).view_as(q)


def _lattice_kernel(features: Tensor, weight: float) -> Filter:
    """Approximate kernel: one lattice for the whole batch, in time linear in the pixels."""
    lattice = Lattice(features)
    lattice.normalise(weight)
    return lambda q: lattice.filter(q.flatten(0, 2).flatten(1)).view_as(q)


def _check(unary: Tensor, image: Tensor, iterations: int) -> None:
    if unary.ndim < 4 or min(unary.shape) < 1:
        raise ValueError(f"unary must be (B, ..., L, H, W), not {tuple(unary.shape)}")
    if tuple(image.shape) != (len(unary), 3, *unary.shape[-2:]):
        raise ValueError(
            f"image {tuple(image.shape)} does not fit unary {tuple(unary.shape)}: "
            f"expected {(len(unary), 3, *unary.shape[-2:])}"
        )
    if not image.is_floating_point() or not bool(((image >= 0) & (image <= 1)).all()):
        raise ValueError("image must be floating point in [0, 1]: divide 8-bit pictures by 255")
    if not bool(unary.isfinite().all()):
        raise ValueError("unary holds nan or inf: clamp the energies first")
    if iterations < 0 or int(iterations) != iterations:
        raise ValueError(f"iterations must be a whole number of 0 or more, not {iterations}")


def _check_scales(**scales: float) -> None:
    for name, value in scales.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, not {value}")


def _check_weights(**weights: float) -> None:
    for name, value in weights.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be 0 or more, not {value}")
