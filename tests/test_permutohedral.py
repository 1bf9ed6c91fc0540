"""The lattice against a literal one with a dictionary, and against the Gaussian it stands for."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from clims_lib.permutohedral import Lattice


def elevate(point):
    """Map a point onto the plane sum = 0 of d + 1 dimensions, as the paper's figure 4 does."""
    d = len(point)
    scaled = [
        f * math.sqrt(2 / 3) * (d + 1) / math.sqrt((i + 1) * (i + 2)) for i, f in enumerate(point)
    ]
    return np.array([sum(scaled)] + [sum(scaled[j:]) - j * scaled[j - 1] for j in range(1, d + 1)])


def corners(point):
    """Find the enclosing simplex by search: the corners whose barycentric weights are all >= 0."""
    e = elevate(point)
    d = len(point)
    low = np.floor(e / (d + 1)).astype(int) * (d + 1)
    for step in itertools.product((0, d + 1), repeat=d + 1):
        base = low + step
        if base.sum() != 0:
            continue
        order = np.argsort(-(e - base), kind="stable")
        vertices = []
        for r in range(d + 1):  # vertex r: +r everywhere, minus d + 1 at the r smallest residuals
            vertex = base + r
            vertex[order[d + 1 - r :]] -= d + 1
            vertices.append(vertex)
        system = np.vstack([np.array(vertices).T, np.ones(d + 1)])
        weights = np.linalg.lstsq(system, np.append(e, 1.0), rcond=None)[0]
        if weights.min() > -1e-9:
            return [tuple(v) for v in vertices], weights
    raise AssertionError("no simplex holds the point")


def literal_filter(points, values):
    """Splat, blur along every direction, slice; one dictionary, no tensors."""
    d = points.shape[1]
    places = [corners(p) for p in points]
    lattice = defaultdict(lambda: np.zeros(values.shape[1]))
    for (vertices, weights), value in zip(places, values, strict=True):
        for vertex, weight in zip(vertices, weights, strict=True):
            lattice[vertex] = lattice[vertex] + weight * value
    zero = np.zeros(values.shape[1])
    for j in range(d + 1):
        step = np.ones(d + 1, int)
        step[j] -= d + 1
        lattice = {
            v: x + 0.5 * (lattice.get(tuple(v + step), zero) + lattice.get(tuple(v - step), zero))
            for v, x in lattice.items()
        }
    return np.array([sum(w * lattice[v] for v, w in zip(*place, strict=True)) for place in places])


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
def test_equals_the_literal_lattice(dims):
    rng = np.random.default_rng(dims)
    points, values = rng.normal(size=(80, dims)) * 0.8, rng.random((80, 3))
    features = torch.tensor(points.T[None], dtype=torch.float32)
    ours = Lattice(features).filter(torch.tensor(values, dtype=torch.float32))
    assert np.allclose(ours, literal_filter(points, values), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 5])
def test_weighted_means_are_near_the_true_gaussians(dims):
    g = torch.Generator().manual_seed(dims)
    points = torch.rand(2000, dims, generator=g) * 3
    values = torch.stack([torch.ones(2000), points[:, 0], (points[:, 1] > 1.5).float()], 1)
    kernel = torch.exp(-0.5 * torch.cdist(points, points) ** 2)
    true = kernel @ values
    ours = Lattice(points.T[None]).filter(values)
    difference = ours[:, 1:] / ours[:, :1] - true[:, 1:] / true[:, :1]
    assert difference.abs().mean() < 0.05  # the means themselves run from 0 to 3 and 0 to 1


def test_pictures_of_a_batch_never_meet():
    g = torch.Generator().manual_seed(0)
    features, values = torch.rand(3, 5, 6, 7, generator=g) * 4, torch.rand(3 * 42, 2, generator=g)
    together = Lattice(features).filter(values)
    alone = [Lattice(features[i : i + 1]).filter(values[42 * i : 42 * i + 42]) for i in range(3)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)


def test_features_beyond_the_integers():
    with pytest.raises(ValueError, match="take a larger sxy or srgb"):
        Lattice(torch.rand(1, 5, 10) * 1e5)
