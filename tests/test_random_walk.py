"""The random walk against dense matrices and pairs counted one by one."""

import math

import pytest
import torch

from clims_lib.irnet import edge_paths
from clims_lib.random_walk import (
    AffinityHead,
    affinity,
    affinity_loss,
    inner,
    offsets,
    own_places,
    random_walk,
    shift,
)

H, W = 5, 4
PLACES = [(i, j) for i in range(H) for j in range(W)]


@pytest.fixture
def embedding():
    return torch.rand(2, 3, H, W, generator=torch.Generator().manual_seed(0))


def dense(embedding, radius):
    """The affinity matrix (H * W, H * W) of one picture, pair by pair, 0 beyond the radius."""
    a = torch.zeros(H * W, H * W, dtype=torch.float64)
    for p, (i, j) in enumerate(PLACES):
        for q, (k, m) in enumerate(PLACES):
            if p == q or math.dist((i, j), (k, m)) > radius:
                continue
            gap = (embedding[:, i, j] - embedding[:, k, m]).abs().mean()
            a[p, q] = math.exp(-gap.item())
    return a


@pytest.mark.parametrize("radius", [1, 1.5, 2, 3])
def test_offsets_are_half_of_the_disc(radius):
    half = offsets(radius)
    disc = {(y, x) for y in range(-3, 4) for x in range(-3, 4) if 0 < math.hypot(y, x) <= radius}
    assert {*half, *((-y, -x) for y, x in half)} == disc and len(disc) == 2 * len(half)


def test_shift_by_hand():
    x = torch.arange(6.0).view(2, 3)
    assert shift(x, 0, 1).tolist() == [[1, 2, 0], [4, 5, 0]]
    assert shift(x, 1, -1, fill=9).tolist() == [[9, 3, 4], [9, 9, 9]]


@pytest.mark.parametrize("radius", [1, 2.3])
def test_the_walk_is_a_power_of_the_dense_matrix(embedding, radius):
    steps, scores = offsets(radius), torch.rand(2, 6, H, W)
    walked = random_walk(scores, affinity(embedding, steps), steps, beta=3, times=5)
    for picture in range(2):
        a = dense(embedding[picture], radius) ** 3 + torch.eye(H * W, dtype=torch.float64)
        t = torch.linalg.matrix_power(a / a.sum(1, keepdim=True), 5)
        expected = t @ scores[picture].flatten(1).T.double()
        found = walked[picture].flatten(1).T.double()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_the_walk_does_not_cross_a_border_but_fills_its_side():
    embedding = torch.zeros(1, 2, H, W)
    embedding[..., 2:] = 10.0
    scores = torch.zeros(1, 1, H, W)
    scores[0, 0, 0, 0] = 1.0
    steps = offsets(2)
    walked = random_walk(scores, affinity(embedding, steps), steps, beta=8, times=50)[0, 0]
    assert (walked[:, :2] > 0.05).all() and (walked[:, 2:] < 1e-6).all()


def test_loss_counts_each_kind_of_pair_by_itself(embedding):
    labels = torch.tensor([0, 1, 2, 255], dtype=torch.uint8)[
        torch.randint(4, (2, H, W), generator=torch.Generator().manual_seed(1))
    ]
    kinds = {"fg": [], "bg": [], "other": []}
    for picture in range(2):
        a = dense(embedding[picture], 2)
        for p, (i, j) in enumerate(PLACES):
            for q, (k, m) in enumerate(PLACES[:p]):
                one, two = int(labels[picture, i, j]), int(labels[picture, k, m])
                if not a[p, q] or 255 in (one, two):
                    continue
                kind = "other" if one != two else "fg" if one else "bg"
                kinds[kind].append(-math.log(1 - a[p, q] if one != two else a[p, q]))
    mean = {kind: sum(values) / len(values) for kind, values in kinds.items()}
    expected = mean["fg"] / 4 + mean["bg"] / 4 + mean["other"] / 2
    steps = offsets(2)
    assert affinity_loss(affinity(embedding, steps), labels, steps).item() == pytest.approx(
        expected, rel=1e-5
    )
    unsure = torch.full_like(labels, 255)
    assert affinity_loss(affinity(embedding, steps), unsure, steps).item() == 0


def test_the_head_has_the_first_stages_size():
    head = AffinityHead([8, 16], 12)
    assert head([torch.rand(2, 8, 32, 24), torch.rand(2, 16, 8, 6)]).shape == (2, 12, 32, 24)


@pytest.mark.parametrize("radius", [2, 3])
def test_a_picture_on_a_canvas_walks_as_if_alone(radius):
    g = torch.Generator().manual_seed(0)
    steps, border, sizes = list(edge_paths(radius)), radius - 1, [(8, 11), (6, 7), (5, 2)]
    embedding, scores = (torch.rand(3, c, 8, 11, generator=g) for c in (4, 2))
    own = own_places(torch.tensor(sizes), (8, 11), border)
    walked = random_walk(scores, affinity(embedding, steps) * own, steps, beta=2, times=3)
    for i, (h, w) in enumerate(sizes):
        cut = slice(i, i + 1), slice(None), slice(h), slice(w)
        expected = scores[cut]  # too narrow: nothing is tied, nothing walks
        if w > 2 * border:
            assert int(own[i].sum()) == inner(embedding[cut], border)[0, 0].numel()
            values = affinity(embedding[cut], steps, border)
            expected = random_walk(scores[cut], values, steps, beta=2, times=3)
        torch.testing.assert_close(walked[cut], expected)


def test_bad_input_says_so(embedding):
    with pytest.raises(ValueError, match="radius"):
        offsets(0)
    with pytest.raises(ValueError, match="need affinities"):
        random_walk(
            torch.rand(1, 1, H, W), affinity(embedding, offsets(1)), offsets(1), beta=1, times=1
        )
