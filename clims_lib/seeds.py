"""Turn class activation maps into masks, and score all background thresholds at once.

Every function takes any number of leading batch dimensions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from clims_lib.labels import IGNORE
from clims_lib.metrics import miou

# Background thresholds of the releases. Camera-ready, and PuzzleCAM, report the best of theirs.
THRESHOLDS = {
    "camera_ready": tuple(round(0.05 * i, 2) for i in range(1, 16)),  # 0.05 .. 0.75
    "improved": (0.15,),
}


def normalise_cam(cam: Tensor, label: Tensor, how: str = "max", epsilon: float = 0.0) -> Tensor:
    """Bring a picture's activation maps into [0, 1] and silence the absent classes.

    cam float (..., K, h, w), label (..., K) of 0 and 1 -> float32 (..., K, h, w).
    how="max": ReLU, then divide each class by its own spatial maximum (the usual CAM rule), to
    which `epsilon` is added (released code: 1e-5);
    how="joint": ReLU, then divide all classes by their common maximum (after IRNet's walk);
    how="none": only clamp to [0, 1], for maps that already come from a sigmoid.
    """
    cam, label = torch.as_tensor(cam).float(), torch.as_tensor(label)
    if cam.ndim < 3 or label.shape != cam.shape[:-2]:
        raise ValueError(
            f"cam {tuple(cam.shape)} needs label {tuple(cam.shape[:-2])}, not {tuple(label.shape)}"
        )
    if not bool(cam.isfinite().all()):
        raise ValueError("cam holds nan or inf: did its training diverge?")
    present = (label.to(cam.device) > 0)[..., None, None]
    if how in ("max", "joint"):
        cam = cam.relu() * present
        highest = cam.amax((-2, -1) if how == "max" else (-3, -2, -1), keepdim=True) + epsilon
        cam = cam / torch.where(highest > 0, highest, 1.0)
    elif how == "none":
        cam = cam.clamp(0, 1)
    else:
        raise ValueError(f'how must be "max", "joint" or "none", not {how!r}')
    return cam * present


def cam_to_mask(cam: Tensor, threshold: float) -> Tensor:
    """Label each pixel with the argmax over [threshold, cam_1 .. cam_K].

    cam (..., K, H, W) in [0, 1] -> uint8 (..., H, W), 0 = background; threshold in [0, 1] is the
    score of the background (the paper takes 0.15 on VOC). In a tie the background wins, then the
    first class.
    """
    strongest, winner = torch.as_tensor(cam).max(-3)
    return torch.where(strongest > threshold, winner + 1, 0).to(torch.uint8)


def sure_mask(high: Tensor, low: Tensor) -> Tensor:
    """Keep of two masks what is sure: objects where `high` has them, background where neither has.

    high, low: uint8 (..., H, W), from a high and a low threshold of the background -> uint8, 255
    where only the low threshold finds an object. (Released: 0.3 and 0.05, or 0.3 and 0.1.)
    """
    unsure = torch.full_like(low, IGNORE).masked_fill(low == 0, 0)
    return torch.where(high > 0, high, unsure)


def threshold_counts(
    cam: Tensor,
    truth: Tensor,
    thresholds: Sequence[float],
    labels: Sequence[int] | Tensor,
    num_labels: int,
) -> Tensor:
    """Count pixels for the confusion matrices at all T thresholds, in one pass.

    cam (..., K, H, W) in [0, 1]; truth: whole numbers (..., H, W), 255 ignored; thresholds: rising;
    labels (K,): which label each map stands for. A pixel turns from its strongest class to
    background as the threshold rises, so one histogram int64 (num_labels, num_labels, T + 1) over
    (true label, strongest class, number of thresholds passed) holds all T matrices. Counts add up
    over pictures; `threshold_curve` turns them into scores.
    """
    rising, steps = torch.as_tensor(thresholds, dtype=torch.float32), len(thresholds) + 1
    cam, truth = torch.as_tensor(cam), torch.as_tensor(truth)
    if rising.ndim != 1 or steps == 1 or bool((rising.diff() <= 0).any()):
        raise ValueError(f"thresholds must be a rising list of numbers, not {rising.tolist()}")
    if truth.shape != cam.shape[:-3] + cam.shape[-2:] or len(labels) != cam.shape[-3]:
        raise ValueError(
            f"cam {tuple(cam.shape)} does not fit the truth {tuple(truth.shape)} and "
            f"{len(labels)} labels; resize the cam to the picture first"
        )
    if bool(((truth >= num_labels) & (truth != IGNORE)).any()):
        raise ValueError(f"truth holds labels over {num_labels - 1}")
    strongest, winner = cam.max(-3)
    counted = truth != IGNORE
    winner = torch.tensor([int(k) for k in labels])[winner[counted]]
    passed = torch.bucketize(strongest[counted], rising)  # how many lie below the score
    index = (truth[counted].long() * num_labels + winner) * steps + passed
    counts = torch.bincount(index, minlength=num_labels * num_labels * steps)
    return counts.view(num_labels, num_labels, steps)


def threshold_curve(counts: Tensor, absent: str = "left_out") -> list[float]:
    """mIoU at every threshold, a list of floats, of what `threshold_counts` counted.

    absent: what labels that occur nowhere count, as in `metrics.miou`.
    """
    return [miou(_confusion_at(counts, t), absent) for t in range(counts.shape[-1] - 1)]


def best_threshold(curve: Sequence[float], thresholds: Sequence[float]) -> float:
    """The threshold with the highest mIoU of a `threshold_curve`, the lowest of equal ones."""
    return max(zip(thresholds, curve, strict=True), key=lambda pair: pair[1])[0]


def _confusion_at(counts: Tensor, t: int) -> Tensor:
    """Confusion at threshold number t: pixels that passed at most t of them are background."""
    confusion = counts[:, :, t + 1 :].sum(-1)
    confusion[:, 0] += counts[:, :, : t + 1].sum((1, 2))
    return confusion
