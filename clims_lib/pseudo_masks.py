"""Turn class activation maps into masks, and choose the background threshold on a list of pictures.

Every function takes any number of leading batch dimensions; lists hold pictures of any sizes.
"""

import torch

from clims_lib.metrics import IGNORE, miou


def normalise_cam(cam, label, how="max"):
    """Bring a picture's activation maps into [0, 1] and silence the absent classes.

    cam float (..., K, h, w), label (..., K) of 0 and 1 -> float32 (..., K, h, w).
    how="max": ReLU, then divide each class by its own spatial maximum (the usual CAM rule);
    how="none": only clamp to [0, 1], for maps that already come from a sigmoid.
    """
    cam, label = torch.as_tensor(cam).float(), torch.as_tensor(label)
    if cam.ndim < 3 or label.shape != cam.shape[:-2]:
        raise ValueError(f"cam {tuple(cam.shape)} needs label {tuple(cam.shape[:-2])}, "
                         f"not {tuple(label.shape)}")  # fmt: skip
    if not bool(cam.isfinite().all()):
        raise ValueError("cam holds nan or inf: did its training diverge?")
    if how == "max":
        cam = cam.relu()
        highest = cam.amax((-2, -1), keepdim=True)
        cam = cam / torch.where(highest > 0, highest, 1.0)
    elif how == "none":
        cam = cam.clamp(0, 1)
    else:
        raise ValueError(f'how must be "max" or "none", not {how!r}')
    return cam * (label.to(cam.device) > 0)[..., None, None]


def cam_to_mask(cam, threshold):
    """Label each pixel with the argmax over [threshold, cam_1 .. cam_K].

    cam (..., K, H, W) in [0, 1] -> uint8 (..., H, W), 0 = background; threshold in [0, 1] is the
    score of the background (the paper takes 0.15 on VOC).
    """
    strongest, winner = _winner(torch.as_tensor(cam))
    return torch.where(strongest > threshold, winner, torch.zeros_like(winner)).to(torch.uint8)


def threshold_curve(cams, labels, truths, thresholds, how="max"):
    """mIoU of the masks at every threshold, over a list of pictures, in one pass.

    cams: list of (K, h, w); labels: list of (K,); truths: list of masks (h, w), 255 ignored;
    thresholds: T rising numbers. Returns float64 (T,). A pixel turns from its strongest class to
    background as the threshold rises, so one histogram over (true label, strongest class, number
    of thresholds passed) holds all T confusion matrices.
    """
    thresholds = torch.as_tensor(thresholds, dtype=torch.float32)
    if thresholds.ndim != 1 or not len(thresholds) or bool((thresholds.diff() <= 0).any()):
        raise ValueError(f"thresholds must be a rising list of numbers, not {thresholds.tolist()}")
    if not len(cams) or not len(cams) == len(labels) == len(truths):
        raise ValueError(
            f"{len(cams)} cams, {len(labels)} labels and {len(truths)} truths: need one of each "
            "for every picture, and at least one picture"
        )
    num_labels, steps = len(cams[0]) + 1, len(thresholds) + 1
    counts = torch.zeros(num_labels * num_labels * steps, dtype=torch.long)
    for i, (cam, label, truth) in enumerate(zip(cams, labels, truths, strict=True)):
        cam, truth = normalise_cam(cam, label, how).cpu(), torch.as_tensor(truth).long().cpu()
        if len(cam) != num_labels - 1 or cam.shape[1:] != truth.shape:
            raise ValueError(
                f"picture {i}: cam {tuple(cam.shape)} does not fit the truth {tuple(truth.shape)} "
                f"and {num_labels - 1} classes; resize the cam to the picture first"
            )
        strongest, winner = _winner(cam)
        passed = torch.bucketize(strongest, thresholds)  # number of thresholds below the score
        if bool(((truth >= num_labels) & (truth != IGNORE)).any()):
            raise ValueError(f"picture {i}: truth holds labels over {num_labels - 1}")
        index = (truth * num_labels + winner) * steps + passed
        counts += torch.bincount(index[truth != IGNORE], minlength=len(counts))
    counts = counts.view(num_labels, num_labels, steps)
    scores = [miou(_confusion_at(counts, t)) for t in range(len(thresholds))]
    return torch.tensor(scores, dtype=torch.float64)


def best_threshold(cams, labels, truths, thresholds, how="max"):
    """Return (threshold, miou): the highest mIoU over the pictures (arguments: threshold_curve)."""
    curve = threshold_curve(cams, labels, truths, thresholds, how)
    best = int(curve.argmax())
    return float(thresholds[best]), float(curve[best])


def _winner(cam):
    """Score and label (1..K) of each pixel's strongest class; (..., K, H, W) -> (..., H, W)."""
    strongest, winner = cam.max(-3)
    return strongest, winner + 1


def _confusion_at(counts, t):
    """Confusion at threshold number t: pixels that passed at most t of them are background."""
    confusion = counts[:, :, t + 1 :].sum(-1)
    confusion[:, 0] += counts[:, :, : t + 1].sum((1, 2))
    return confusion
