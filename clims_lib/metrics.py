"""Measure masks: confusion, IoU, mIoU and leak rate; all counts add up over pictures."""

import numpy as np
import torch
from torch import Tensor

from clims_lib.labels import IGNORE

Labels = Tensor | np.ndarray  # whole numbers


def confusion(truth: Labels, prediction: Labels, num_labels: int) -> Tensor:
    """Count pixels by true and predicted label: C[t, p] = #{truth = t and prediction = p}.

    truth, prediction: whole numbers of one and the same shape, any number of dimensions, tensors or
    arrays, 0..num_labels-1; pixels with truth 255 are left out, whatever the prediction there.
    Returns int64 (num_labels, num_labels), rows = truth. ValueError for other shapes or labels.
    """
    truth, prediction = _labels(truth, "truth"), _labels(prediction, "prediction")
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth {tuple(truth.shape)} and prediction {tuple(prediction.shape)} differ in shape: "
            "resize the prediction to the truth first"
        )
    for name, values in (("truth", truth), ("prediction", prediction)):
        if (
            values.dtype != torch.uint8
            and values.numel()
            and not 0 <= int(values.min()) <= int(values.max()) <= IGNORE
        ):
            raise ValueError(
                f"{name} holds labels {int(values.min())}..{int(values.max())}, "
                f"expected 0..{num_labels - 1}"
            )
    # One histogram of both labels side by side: no pixel is picked out, so nothing is copied.
    both = truth.flatten().int() * 256 + prediction.to(truth.device).flatten()
    counts = torch.bincount(both, minlength=256 * 256).view(256, 256)
    counts[IGNORE] = 0
    for name, found in (("truth", counts.sum(1)), ("prediction", counts.sum(0))):
        if bool(found[num_labels:].any()):
            there = found.nonzero()[:, 0]
            raise ValueError(
                f"{name} holds labels {int(there.min())}..{int(there.max())}, "
                f"expected 0..{num_labels - 1}"
            )
    return counts[:num_labels, :num_labels].clone()


def iou(confusion: Labels) -> Tensor:
    """Intersection over union of each label: C[k,k] / (sum_p C[k,p] + sum_t C[t,k] - C[k,k]).

    confusion (..., L, L) -> float64 (..., L) in [0, 1]; nan for labels in neither truth nor
    prediction.
    """
    counts = _counts(confusion)
    hits = counts.diagonal(dim1=-2, dim2=-1)
    return hits / (counts.sum(-1) + counts.sum(-2) - hits)  # 0 / 0 is the nan we promise


def miou(confusion: Labels, absent: str = "left_out") -> float:
    """Mean IoU over the labels that occur, background included: float in [0, 1].

    absent: labels in neither truth nor prediction are "left_out", as by chainercv (IRN, CLIMS), or
    count as "zero" in the mean over all (PuzzleCAM, CCT). Raises ValueError for other words.
    """
    counts = _counts(confusion)
    if counts.ndim != 2:
        raise ValueError(f"one confusion matrix at a time has a mIoU, not {tuple(counts.shape)}")
    if float(counts.sum()) == 0:
        raise ValueError("the confusion matrix is empty: no pixel was counted, so there is no mIoU")
    if absent not in ("left_out", "zero"):
        raise ValueError(f'absent labels are "left_out" or count as "zero", not {absent!r}')
    scores = iou(confusion)
    return float(scores.nanmean() if absent == "left_out" else scores.nan_to_num(0.0).mean())


def leak_rate(
    prediction: Labels, ground: Labels, ground_index: int, class_index: int
) -> tuple[int, int]:
    """Count how much of a co-occurring ground is labelled as the object.

    leak rate = #{ground = g and prediction = k} / #{ground = g}, for instance of the railroad's
    pixels those labelled train. prediction, ground: whole numbers of one shape.
    Returns (labelled, total) as ints: sum both over pictures, then divide.
    """
    prediction, ground = _labels(prediction, "prediction"), _labels(ground, "ground")
    if prediction.shape != ground.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and ground {tuple(ground.shape)} differ in shape"
        )
    on_ground = ground == ground_index
    labelled = on_ground & (prediction.to(ground.device) == class_index)
    return int(labelled.sum()), int(on_ground.sum())


def picture_iou(truth: Labels, prediction: Labels, label: int) -> Tensor:
    """IoU of one label in each picture: truth, prediction (N, H, W) -> float64 (N,).

    Pixels with truth 255 are left out; nan where the label is in neither. ValueError for shapes
    that differ.
    """
    truth, prediction = _labels(truth, "truth"), _labels(prediction, "prediction")
    if truth.shape != prediction.shape or truth.ndim != 3:
        raise ValueError(f"need two (N, H, W), not {tuple(truth.shape)}, {tuple(prediction.shape)}")
    known = truth != IGNORE
    real, guessed = (truth == label), (prediction == label) & known
    both, either = ((real & guessed).sum((1, 2)), (real | guessed).sum((1, 2)))
    return both.double() / either  # 0 / 0 is nan


def _labels(values: Labels, name: str) -> Tensor:
    values = torch.as_tensor(values)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"{name} must hold whole-number labels, not {values.dtype}")
    return values


def _counts(confusion: Labels) -> Tensor:
    counts = torch.as_tensor(confusion).double()
    if counts.ndim < 2 or counts.shape[-1] != counts.shape[-2] or bool((counts < 0).any()):
        raise ValueError(f"a confusion matrix is square, with counts >= 0, not {counts.shape}")
    return counts
