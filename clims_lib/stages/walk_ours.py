"""The random walk that is ours, and what every form of it is asked for (walk.form).

It learns from whole pictures, on features of the CAM network that do not learn. What trains and
what walks are functions apart, so that editing one makes nothing anew that the other one made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clims_lib import clip_model, random_walk
from clims_lib.cam import CAMNet
from clims_lib.config import Profile
from clims_lib.data.splits import read_images, subset, subset_settings
from clims_lib.devices import device_of
from clims_lib.stages.maps import REFINING, from_network
from clims_lib.stages.networks import load_network
from clims_lib.stages.sure_labels import refined_maps, sure_labels


class Ours:
    """An `AffinityHead`, and the CAM network whose features it is given."""

    def __init__(self, profile: Profile, name: str):
        self.profile, self.name, self.settings = profile, name, profile.walk
        self.device = device_of(profile)
        self.model = self.network()

    def network(self) -> CAMNet:
        return load_network(self.profile, self.name)

    @property
    def neighbours(self) -> list[tuple[int, int]]:
        """The steps (dy, dx) from a place to those that it is tied to, one of each opposite two."""
        return random_walk.offsets(self.settings.radius)

    def features(self, x: Tensor) -> list[Tensor]:
        """Pictures (B, 3, H, W) in [0, 1] -> what the head is given."""
        amp = not self.profile.compute.full_precision
        return features(self.model, x, self.settings.stride, amp)

    def new_head(self) -> nn.Module:
        """The head with fresh weights from the profile's seed."""
        side = 64 * self.settings.stride
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(self.profile.seed)
            x = torch.zeros(1, 3, side, side, device=next(self.model.parameters()).device)
            stages = features(self.model.eval(), x, self.settings.stride, False)
            return random_walk.AffinityHead([z.shape[1] for z in stages], self.settings.embedding)

    def borders(self, head: nn.Module, x: Tensor) -> Tensor:
        """(B, h, w) in [0, 1]: one minus the mean affinity to a place's nearest neighbours."""
        nearest = [(dy, dx) for dy, dx in self.neighbours if dy * dy + dx * dx <= 2]
        return 1 - random_walk.affinity(head(self.features(x)), nearest).mean(1)


LEARNING: tuple[str, ...] = ("form", "stride", "radius", "embedding", "pictures", "low", "high")
LEARNING += ("steps", "batch", "lr")


def from_ours(profile: Profile, name: str) -> dict[str, Any]:
    """What the affinities of a network's maps are learned from, for `make_once`."""
    plain = from_network(profile, name, "train")
    read = [f"walk.{setting}" for setting in LEARNING]
    read += subset_settings(profile, "train", profile.walk.pictures)
    return {
        "settings": [*plain["settings"], *read, *REFINING, "seed", "data.size", "data.classes"],
        "inputs": plain["inputs"],
        "code": [*plain["code"], refined_maps],
    }


def learning_of_ours(form: Ours, head: nn.Module) -> dict[str, Any]:
    """`training.train`'s loss and optimiser; of other forms the schedule, too. Nothing is read."""
    loss = random_walk.affinity_training_loss(
        lambda x: form.features(x.float() / 255), form.neighbours
    )
    return {"loss": loss, "optimiser": torch.optim.Adam(head.parameters(), lr=form.settings.lr)}


def batches_of_ours(form: Ours) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
    """`training.train`'s batches: pictures and their sure labels."""
    settings, pictures = form.settings, form.settings.pictures
    images = read_images(form.profile, "train")
    chosen = torch.tensor(subset(form.profile, "train", pictures))
    sure = sure_labels(form.profile, form.name, "train", pictures)
    sure = sure[:, :: settings.stride, :: settings.stride]

    def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(form.profile.seed)
        for step in count():  # from the first: what was drawn before decides what comes
            some = torch.randint(len(chosen), (settings.batch,), generator=generator)
            if step >= start:
                yield images[chosen[some]], sure[some]

    return batches


def walk_ours(form: Ours, head: nn.Module, x: Tensor, maps: Tensor, sizes: Tensor) -> Tensor:
    """Maps (B, K, h, w) of pictures (B, 3, S, S) in [0, 1] carried further: of the walk's size.

    sizes (B, 2): the pictures' own heights and widths; ours walks on all of the canvas.
    """
    values = random_walk.affinity(head(form.features(x)), form.neighbours)
    return carry(form, values, maps)


def carry(form: Ours, values: Tensor, maps: Tensor) -> Tensor:
    """Maps of any size over the affinities (B, O, h, w) -> (B, K, h, w)."""
    how, small = form.settings, resize(maps, values.shape[-2:])
    return random_walk.random_walk(small, values, form.neighbours, beta=how.beta, times=how.times)


def resize(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def features(model: CAMNet, x: Tensor, stride: int, amp: bool = True) -> list[Tensor]:
    """The backbone's features that are not finer than `stride`."""
    with clip_model.autocast(x.device, amp):
        stages = model.stages(x.contiguous(memory_format=torch.channels_last))
    return [z.float() for z in stages if z.shape[-1] <= x.shape[-1] // stride]
