"""Metrics against scikit-learn's confusion matrix and against numbers worked by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

from clims_lib.metrics import confusion, iou, leak_rate, miou, picture_iou


@pytest.mark.parametrize("shape", [(50,), (13, 17), (4, 9, 11), (2, 3, 4, 5)])
@pytest.mark.parametrize("num_labels", [2, 7, 21])
def test_confusion_is_scikit_learns(shape, num_labels):
    rng = np.random.default_rng(num_labels)
    truth = rng.integers(0, num_labels, shape).astype(np.uint8)
    prediction = rng.integers(0, num_labels, shape).astype(np.uint8)
    truth[rng.random(shape) < 0.2] = 255
    prediction[truth == 255] = 99  # what is predicted on ignored pixels does not matter
    counts = confusion(torch.from_numpy(truth), prediction, num_labels)
    seen = truth != 255
    peer = confusion_matrix(truth[seen], prediction[seen], labels=range(num_labels))
    assert counts.dtype == torch.int64 and (counts.numpy() == peer).all()
    peer = jaccard_score(
        truth[seen], prediction[seen], labels=range(num_labels), average=None, zero_division=0
    )
    assert np.allclose(iou(counts).nan_to_num(0), peer)


def test_by_hand():
    truth = torch.tensor([[0, 0, 1], [1, 1, 255]])
    prediction = torch.tensor([[0, 1, 1], [1, 0, 1]])
    counts = confusion(truth, prediction, 3)
    assert counts.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    per_label = iou(counts)
    assert per_label[:2].tolist() == [1 / 3, 2 / 4] and per_label[2].isnan()
    assert miou(counts) == pytest.approx((1 / 3 + 1 / 2) / 2)  # the absent label does not count


def test_a_label_never_predicted_counts_as_zero():
    counts = confusion(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)
    assert iou(counts).tolist() == [0.5, 0.0] and miou(counts) == 0.25


def test_counts_add_up_over_pictures_of_any_size():
    truths = [torch.tensor([0, 1, 1]), torch.tensor([[1, 0], [0, 0]])]
    predictions = [torch.tensor([0, 1, 0]), torch.tensor([[1, 1], [0, 0]])]
    total = sum(confusion(t, p, 2) for t, p in zip(truths, predictions, strict=True))
    flat = confusion(
        torch.cat([t.flatten() for t in truths]), torch.cat([p.flatten() for p in predictions]), 2
    )
    assert (total == flat).all()


def test_leak_rate_by_hand():
    ground = torch.tensor([[2, 2, 2], [2, 1, 0]], dtype=torch.uint8)
    prediction = np.array([[6, 6, 0], [4, 6, 6]], dtype=np.uint8)
    assert leak_rate(prediction, ground, ground_index=2, class_index=6) == (2, 4)
    assert leak_rate(prediction, ground, ground_index=5, class_index=6) == (0, 0)


@pytest.mark.parametrize(
    "truth, prediction, message",
    [
        ([0, 1], [[0, 1]], "differ in shape"),
        ([0, 3], [0, 1], r"truth holds labels 0\.\.3, expected 0\.\.2"),
        ([0, 1], [0, 255], r"prediction holds labels 0\.\.255"),
        ([0, -1], [0, 1], r"truth holds labels -1\.\.0"),
        ([0.0, 1.0], [0, 1], "whole-number labels"),
    ],
)
def test_bad_labels(truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        confusion(torch.tensor(truth), torch.tensor(prediction), 3)


def test_bad_confusion():
    with pytest.raises(ValueError, match="square"):
        iou(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="no pixel was counted"):
        miou(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="differ in shape"):
        leak_rate(torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 1, 1)


def test_iou_of_each_picture_by_hand():
    truth = torch.tensor([[[1, 1], [255, 0]], [[0, 0], [0, 0]], [[2, 0], [0, 0]]])
    prediction = torch.tensor([[[1, 0], [1, 1]], [[0, 0], [0, 0]], [[1, 0], [0, 0]]])
    one, none, wrong = picture_iou(truth, prediction, 1).tolist()
    assert one == pytest.approx(1 / 3) and none != none and wrong == 0
    with pytest.raises(ValueError, match="two"):
        picture_iou(truth, prediction[:2], 1)
