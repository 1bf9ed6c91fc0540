"""The dense CRF against a literal mean field, pixel pair by pixel pair."""

import numpy as np
import pytest
import torch

from clims_lib.crf import dense_crf, refine_at, refine_cam, unary_from_cam, unary_from_labels
from clims_lib.seeds import cam_to_mask

SETTINGS = {
    "gaussian_weight": 1.5,
    "gaussian_sxy": 1.5,
    "bilateral_weight": 6.0,
    "bilateral_sxy": 8.0,
    "bilateral_srgb": 0.2,
    "iterations": 5,
}


def two_colours(size, seed=0):
    """A noisy picture, its left half red and its right half blue: (3, size, size) in [0, 1]."""
    image = 0.1 * torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed))
    image[0, :, : size // 2] += 0.8
    image[2, :, size // 2 :] += 0.8
    return image


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
    q = dense_crf(torch.tensor(unary)[None].float(), torch.tensor(image)[None].float(), **SETTINGS)
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


def test_bad_energies_and_settings_say_so():
    image = torch.rand(1, 3, 4, 4)
    with pytest.raises(ValueError, match="nan or inf"):
        dense_crf(torch.full((1, 2, 4, 4), torch.inf), image)
    with pytest.raises(ValueError, match=r"must be \(B, ..., L, H, W\)"):
        dense_crf(torch.zeros(2, 4, 4), image)
    unary = torch.zeros(1, 2, 4, 4)
    for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            dense_crf(unary, image, **{name: 0.0})
    for name in ("gaussian_weight", "bilateral_weight"):
        with pytest.raises(ValueError, match=f"{name} must be 0 or more"):
            dense_crf(unary, image, **{name: -1.0})
    with pytest.raises(ValueError, match="iterations must be a whole number"):
        dense_crf(unary, image, iterations=2.5)
    with pytest.raises(ValueError, match="use exact=False"):
        dense_crf(torch.zeros(1, 2, 200, 200), torch.rand(1, 3, 200, 200), exact=True)
    with pytest.raises(ValueError, match="apply normalise_cam first"):
        unary_from_cam(torch.full((1, 2, 2), 1.5), 0.3)
    with pytest.raises(ValueError, match="0 < confidence < 1"):
        unary_from_labels(torch.zeros(2, 2), 1.0, 3)
    with pytest.raises(ValueError, match=r"labels outside 0\.\.2"):
        unary_from_labels(torch.full((2, 2), 3), 0.7, 3)


@pytest.mark.parametrize("exact", [True, False])
def test_a_batch_is_its_pictures(exact):
    g = torch.Generator().manual_seed(3)
    unary, image = torch.randn(3, 4, 16, 20, generator=g), torch.rand(3, 3, 16, 20, generator=g)
    together = dense_crf(unary, image, **SETTINGS, exact=exact)
    pairs = zip(unary.split(1), image.split(1), strict=True)
    alone = torch.cat([dense_crf(u, i, **SETTINGS, exact=exact) for u, i in pairs])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.sum(1), torch.ones(3, 16, 20))


def test_the_lattice_is_near_the_full_kernel():
    # Random maps are unsure everywhere, which is the hardest case: the labels of single ones
    # differ by 1 to 4 %. pydensecrf's lattice is as far from the full kernel as ours.
    coarse = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    cam = torch.nn.functional.interpolate(coarse, size=48, mode="bilinear", align_corners=False)
    image = torch.stack([two_colours(48, seed) for seed in range(5)])
    unary = unary_from_cam(cam, 0.6)
    exact, lattice = (dense_crf(unary, image, **SETTINGS, exact=e) for e in (True, False))
    assert (exact.argmax(1) == lattice.argmax(1)).float().mean() > 0.95
    assert (exact - lattice).abs().mean() < 0.02


@pytest.mark.parametrize("exact", [True, False])
def test_a_blurred_map_snaps_to_the_edge(exact):
    image, truth = two_colours(32), torch.zeros(32, 32, dtype=torch.uint8)
    truth[:, 16:] = 2
    cam = torch.zeros(3, 32, 32)
    cam[1] = torch.linspace(0, 1, 32).roll(3)  # crosses the threshold three pixels too late
    cam[1, :, :3] = 0.0
    assert (cam_to_mask(cam, 0.5) == truth).float().mean() < 0.95
    mask = refine_cam(image, cam, 0.5, **SETTINGS, exact=exact)
    assert mask.dtype == torch.uint8 and torch.equal(mask, truth)
    batch = refine_cam(
        torch.stack([image] * 2), torch.stack([cam] * 2), 0.5, **SETTINGS, exact=exact
    )
    assert torch.equal(batch, torch.stack([truth] * 2))


@pytest.mark.parametrize("exact", [True, False])
def test_several_thresholds_share_the_kernels_and_nothing_else(exact):
    g = torch.Generator().manual_seed(7)
    image, cam = torch.rand(2, 3, 14, 18, generator=g), torch.rand(2, 3, 14, 18, generator=g)
    cam[:, 1] = 0  # absent
    together = refine_at(image, cam, [0.2, 0.6, 0.9], **SETTINGS, exact=exact)
    assert together.shape == (2, 3, 14, 18)
    for t, threshold in enumerate((0.2, 0.6, 0.9)):
        assert torch.equal(
            together[:, t], refine_cam(image, cam, threshold, **SETTINGS, exact=exact)
        )


def test_energies_agree_with_the_mask_and_absent_classes_stay_out():
    g = torch.Generator().manual_seed(5)
    cam = torch.rand(4, 12, 12, generator=g)
    cam[2] = 0
    unary = unary_from_cam(cam, 0.6)
    assert torch.equal(unary.argmin(0), cam_to_mask(cam, 0.6).long())
    q = dense_crf(unary[None], torch.rand(1, 3, 12, 12, generator=g), **SETTINGS)
    assert q[0, 3].max() == 0
    nothing = refine_cam(torch.rand(3, 12, 12), torch.zeros(4, 12, 12), 0.3)
    assert nothing.shape == (12, 12) and not nothing.any()
