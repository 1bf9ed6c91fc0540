"""The dense CRF against a literal mean field, pixel pair by pixel pair."""

import numpy as np
import pytest
import torch

from clims_lib.crf import dense_crf, unary_from_cam, unary_from_labels


def brute_force(unary, image, wg, sg, wb, sb, sc, iterations):
    """Algorithm 1 of Krähenbühl and Koltun, O(N^2), in double precision: (L, H, W) -> the same."""
    labels, height, width = unary.shape
    points = [(y, x) for y in range(height) for x in range(width)]
    n = len(points)
    near, like = np.zeros((n, n)), np.zeros((n, n))
    for i, (y, x) in enumerate(points):
        for j, (v, u) in enumerate(points):
            far = (y - v) ** 2 + (x - u) ** 2
            colour = ((image[:, y, x] - image[:, v, u]) ** 2).sum()
            near[i, j] = np.exp(-far / (2 * sg**2))
            like[i, j] = np.exp(-far / (2 * sb**2) - colour / (2 * sc**2))
    for kernel in (near, like):
        root = 1 / np.sqrt(kernel.sum(1))
        kernel *= root[:, None] * root[None]
    energy = unary.reshape(labels, n)
    softmax = lambda e: np.exp(e - e.max(0)) / np.exp(e - e.max(0)).sum(0)  # noqa: E731
    q = softmax(-energy)
    for _ in range(iterations):
        q = softmax(-energy + wg * q @ near + wb * q @ like)
    return q.reshape(unary.shape)


@pytest.mark.parametrize("labels", [2, 5])
def test_equals_brute_force_mean_field(labels):
    rng = np.random.default_rng(labels)
    image, unary = rng.random((3, 9, 12)), 3 * rng.random((labels, 9, 12))
    expected = brute_force(unary, image, 1.5, 1.5, 6.0, 8.0, 0.2, 5)
    q = dense_crf(
        torch.tensor(unary)[None].float(),
        torch.tensor(image)[None].float(),
        gaussian_weight=1.5,
        gaussian_sxy=1.5,
        bilateral_weight=6.0,
        bilateral_sxy=8.0,
        bilateral_srgb=0.2,
        iterations=5,
    )
    np.testing.assert_allclose(q[0].numpy(), expected, atol=1e-4)


def test_without_terms_it_is_the_softmax():
    unary = torch.randn(1, 3, 4, 4)
    q = dense_crf(unary, torch.rand(1, 3, 4, 4), gaussian_weight=0, bilateral_weight=0)
    torch.testing.assert_close(q, (-unary).softmax(1))


def test_energies_by_hand():
    cam = torch.tensor([[[0.8]], [[0.0]]])  # the second class is absent
    p = torch.exp(-unary_from_cam(cam, 0.3, sharpness=8.0))[:, 0, 0]
    assert p[1].item() == pytest.approx(1 / (1 + np.exp(-4.0)), abs=1e-6) and p[2] == 0
    p = torch.exp(-unary_from_labels(torch.tensor([[1, 255]]), 0.7, 3))
    torch.testing.assert_close(p[:, 0, 0], torch.tensor([0.15, 0.7, 0.15]))
    torch.testing.assert_close(p[:, 0, 1], torch.full((3,), 1 / 3))


def test_bad_input_says_so():
    with pytest.raises(ValueError, match="divide 8-bit"):
        dense_crf(torch.zeros(1, 2, 4, 4), torch.full((1, 3, 4, 4), 200.0))
    with pytest.raises(ValueError, match="does not fit"):
        dense_crf(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 5))
