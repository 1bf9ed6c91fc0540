"""Pictures with their maps from disk: small ones of one size together, large ones by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clims_lib.config import Profile
from clims_lib.data.splits import open_split, read_images, read_labels, read_sizes
from clims_lib.stages.maps import GROUP_PIXELS, read_cam


@dataclass
class Group:
    """Pictures of one size with the maps of the n classes that are in any of them.

    some: the B pictures' numbers in the split; images uint8 (B, 3, H, W); classes int64 (n,):
    labels from 1; cams float32 (B, n, H, W), 0 where a class is absent; label (B, n): 1 where it is
    present.
    """

    some: list[int]
    images: Tensor
    classes: Tensor
    cams: Tensor
    label: Tensor

    def labels_of(self, masks: Tensor) -> Tensor:
        """Masks 0..n of `cam_to_mask` or a CRF -> the data set's labels, uint8."""
        return torch.cat([torch.zeros(1), self.classes]).to(torch.uint8)[masks.long()]


def groups(
    profile: Profile, folder: Path, split: str, chosen: Sequence[int] | None = None
) -> Iterator[Group]:
    """A split's pictures, or the chosen ones, with their maps from a folder of `make_cams`.

    chosen: their numbers. Small pictures of one size go together, large ones one by one: then a CRF
    spends time on the classes of that picture alone.
    """
    names, sizes = open_split(profile, split).names, read_sizes(profile, split).tolist()
    images, labels, start = read_images(profile, split), read_labels(profile, split), 0
    todo = range(len(names)) if chosen is None else chosen
    while start < len(todo):
        height, width = sizes[todo[start]]
        most = start + max(1, GROUP_PIXELS // (height * width))
        end = start + 1
        while end < min(most, len(todo)) and sizes[todo[end]] == [height, width]:
            end += 1
        some, start = list(todo[start:end]), end
        present = labels[some].any(0).nonzero()[:, 0]
        if not len(present):
            present = torch.zeros(1, dtype=torch.long)  # a map of zeros: all background
        cams = torch.zeros(len(some), len(present), height, width)
        for row, i in enumerate(some):
            classes, maps = read_cam(
                folder / f"{names[i]}.npz", (height, width), profile.inference.stride
            )
            cams[row, torch.searchsorted(present, classes - 1)] = maps
        yield Group(
            some, images[some, :, :height, :width], present + 1, cams, labels[some][:, present]
        )
