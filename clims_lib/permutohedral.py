"""Gaussian filtering of scattered points on the permutohedral lattice (Adams, Baek, Davis 2010).

A point in d dimensions spreads its value to the d + 1 corners of its simplex (splat), the corners
are blurred along the lattice's d + 1 directions, and each point collects its corners again (slice).
Costs O(points x d^2), however many points lie near each other. Everything is a tensor operation:
corners are found by sorting integer codes, sums are embedding bags, so CPU and GPU run alike.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class Lattice:
    """Filter with exp(-|f_i - f_j|^2 / 2), up to one constant factor, for a batch of pictures.

    features float (B, d, ...): where each of the P = B x ... points lies; points of different
    pictures never meet. filter maps (P, L) to (P, L), points in the order (B, ...).
    """

    _pixel_weights: Tensor  # of the splat
    _corner_weights: Tensor  # of the slice

    def __init__(self, features: Tensor):
        batch, dims = features.shape[:2]
        points = features.transpose(0, 1).reshape(dims, -1)  # (d, P): long rows are quick
        rounded, rank, self._weights = _simplex(points)
        codes, steps = _corner_codes(rounded, rank, batch)
        self._sort_corners(codes)
        self._link_neighbours(steps)

    def normalise(self, weight: float = 1.0) -> None:
        """Make `filter` weight x D^-1/2 K D^-1/2, D being the row sums of the kernel K."""
        ones = self._weights.new_ones(self._weights.shape[1], 1)
        scale = (self.filter(ones)[:, 0] + 1e-20).rsqrt()
        self._pixel_weights = self._pixel_weights * scale[self._pixels]
        self._corner_weights = weight * self._corner_weights * scale[:, None]

    def filter(self, values: Tensor) -> Tensor:
        """Blur values float32 (P, L) -> (P, L)."""
        corners = F.embedding_bag(
            self._pixels, values, self._starts, mode="sum", per_sample_weights=self._pixel_weights
        )
        corners = F.pad(corners, (0, 0, 0, 1))  # a last row of zeros stands for missing corners
        for triples in self._neighbours:  # each corner becomes itself + (lower + upper) / 2
            corners = F.embedding_bag(
                triples, corners, mode="sum", per_sample_weights=self._blur_weights
            )
        return F.embedding_bag(
            self._corners, corners, mode="sum", per_sample_weights=self._corner_weights
        )

    def _sort_corners(self, codes: Tensor) -> None:
        """Number the distinct corners, and list the points of each (for splat) and back (slice)."""
        corners, count = codes.shape
        sorted_codes, order = codes.flatten().sort()
        first = torch.ones_like(sorted_codes, dtype=torch.bool)
        first[1:] = sorted_codes[1:] != sorted_codes[:-1]
        number = torch.empty_like(order)
        number[order] = first.cumsum(0) - 1
        self._codes = sorted_codes[first]
        self._starts = first.nonzero().flatten()
        self._pixels = order % count
        self._pixel_weights = self._weights.flatten()[order]
        self._corners = number.view(corners, count).T.contiguous()
        self._corner_weights = self._weights.T.contiguous()

    def _link_neighbours(self, steps: list[int]) -> None:
        """List (itself, lower, upper) of every corner in each direction; M stands for missing."""
        missing = len(self._codes)
        itself = torch.arange(missing + 1, device=self._codes.device)
        self._neighbours = []
        shares = self._weights.new_tensor([1.0, 0.5, 0.5])
        self._blur_weights = shares.expand(missing + 1, 3).contiguous()
        for step in steps:
            wanted = self._codes + step
            upper = torch.searchsorted(self._codes, wanted)
            found = self._codes[upper.clamp(max=missing - 1)] == wanted
            upper = F.pad(torch.where(found, upper, missing), (0, 1), value=missing)
            lower = torch.full_like(upper, missing)
            lower[upper] = itself  # the lower neighbour is the upper one's inverse
            lower[missing] = missing
            self._neighbours.append(torch.stack([itself, lower, upper], dim=1))


def _simplex(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the simplex around each point: points (d, P) -> rounded, rank, weights, all (d + 1, P).

    rounded: the nearest lattice point whose coordinates are multiples of d + 1; rank: the order of
    the coordinates' distances from it; weights: barycentric, of the corners 0..d, sum 1.
    """
    dims = len(points)
    i = torch.arange(dims, device=points.device)
    # Elevate to the plane sum = 0 in d + 1 dimensions; scaled so that the blur has unit variance.
    scale = math.sqrt(2 / 3) * (dims + 1) / ((i + 1) * (i + 2)).float().sqrt()
    scaled = points * scale[:, None]
    later = scaled.flip(0).cumsum(0).flip(0) - scaled
    elevated = torch.cat([scaled.sum(0, keepdim=True), later - (i + 1)[:, None] * scaled])

    rounded = (elevated / (dims + 1)).round() * (dims + 1)
    excess = (rounded.sum(0) / (dims + 1)).round().long()
    residual = elevated - rounded
    rank = torch.zeros_like(residual, dtype=torch.int8)  # small numbers: less memory to cross
    for a in range(dims + 1):
        for b in range(a + 1, dims + 1):
            below = residual[a] < residual[b]
            rank[a] += below
            rank[b] += ~below
    # Rounding may leave the plane by `excess` steps: undo it where that is cheapest.
    rank = rank + excess
    turn = (rank < 0).long() - (rank > dims).long()
    rank, rounded = rank + turn * (dims + 1), rounded + turn * (dims + 1)

    ordered = torch.empty_like(elevated).scatter_(0, rank, (elevated - rounded) / (dims + 1))
    falling = ordered.flip(0)
    weights = torch.cat([falling[:1] + 1 - falling[-1:], falling[1:] - falling[:-1]])
    return rounded.long(), rank, weights


def _corner_codes(rounded: Tensor, rank: Tensor, batch: int) -> tuple[Tensor, list[int]]:
    """Give every corner of every point one integer: codes (d + 1, P), and the step a direction.

    A corner's first d coordinates are the digits of a mixed-radix number, the picture is its
    highest digit; digits have room for neighbours, so a step never carries into the next one.
    """
    dims = len(rounded) - 1
    digits = rounded[:dims]
    lowest = digits.amin(1, keepdim=True) - 2 * (dims + 1)
    spans = (digits.amax(1) - lowest[:, 0] + 2 * (dims + 1) + 1).tolist()
    if math.prod(spans) * batch >= 2**62:
        raise ValueError("the features spread too far for the lattice: take a larger sxy or srgb")
    radix = [math.prod(spans[:i]) for i in range(dims)] + [0]
    place = torch.tensor(radix, device=rounded.device)[:, None]

    picture = torch.arange(batch, device=rounded.device)
    picture = picture.repeat_interleave(rounded.shape[1] // batch)
    code = ((digits - lowest) * place[:dims]).sum(0) + picture * math.prod(spans)
    # The walk from corner to corner takes each direction once, the highest rank's first.
    steps = sum(radix) - (dims + 1) * place
    walk = torch.empty_like(rank).scatter_(0, dims - rank, steps.expand_as(rank))
    return torch.cat([code[None], walk[:dims]]).cumsum(0), steps.flatten().tolist()
