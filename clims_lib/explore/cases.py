"""Val pictures to look at one by one: the picture, one of its classes, and what comes with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clims_lib.config import Profile
from clims_lib.data.splits import make_data, open_split, read_sizes, read_split
from clims_lib.data.voc import ground_names
from clims_lib.labels import IGNORE
from clims_lib.stages.clip import missing
from clims_lib.stages.counts import around, ground_masks

MOST = 30  # pictures of a class in a menu
COUNTED = 80  # pictures of a class that say what its ground is


@dataclass(frozen=True)
class Case:
    """One picture, looked at for one class in it.

    label: the class's, from 1; image uint8 (3, H, W), truth uint8 (H, W) and home bool (H, W) have
    the picture's own size. home: the ground that most pictures of the class have or, where nobody
    knows grounds, a ring around the object; home_name says which.
    """

    name: str
    label: int
    image: Tensor
    truth: Tensor
    home: Tensor
    home_name: str

    @property
    def thing(self) -> Tensor:
        """bool (H, W): the class's own pixels."""
        return self.truth == self.label


class Cases:
    """A split's pictures by class. `classes` are those that have a picture."""

    def __init__(self, profile: Profile, split: str = "val"):
        self.profile, self.split = profile, split
        self._homes: dict[str, int] = {}
        self.images, self.labels, self.truth = read_split(profile, split, masks=True)
        self.names, self.sizes = open_split(profile, split).names, read_sizes(profile, split)
        self.grounds = () if "grounds" in missing(profile) else ground_names(make_data(profile))
        self.classes = [c for k, c in enumerate(profile.data.classes) if self.labels[:, k].any()]

    @property
    def first(self) -> str:
        """The class to start with: train, the paper's first case, if there is one."""
        return "train" if "train" in self.classes else self.classes[0]

    def numbers(self, klass: str) -> list[int]:
        """Which pictures hold the class, first those that hold nothing else."""
        has = self.labels[:, self.profile.data.classes.index(klass)] > 0
        alone = self.labels.sum(1) == 1
        return [i for some in (has & alone, has & ~alone) for i in some.nonzero()[:, 0].tolist()]

    def pictures(self, klass: str) -> dict[str, int]:
        """{a line of a menu: the picture's number in the split}."""
        names = self.profile.data.classes
        return {
            f"{self.names[i]}: {', '.join(names[k] for k in self.labels[i].nonzero()[:, 0])}": i
            for i in self.numbers(klass)[:MOST]
        }

    def case(self, picture: int, klass: str) -> Case:
        label, (height, width) = self.profile.data.classes.index(klass) + 1, self.sizes[picture]
        truth = self.truth[picture, :height, :width]
        if self.grounds:
            index = self._home_of(klass)
            ground = ground_masks(self.profile, self.split, torch.tensor([picture]))[0]
            home, name = ground == index, self.grounds[index - 1]
        else:
            ring = around((truth == label).float()[None], self.profile.data.size // 8)[0]
            home, name = (ring > 0) & (truth != IGNORE), "surroundings"
        image = self.images[picture, :, :height, :width]
        return Case(self.names[picture], label, image, truth, home, name)

    def _home_of(self, klass: str) -> int:
        """The number of the ground that most of the class's pictures have."""
        if klass not in self._homes:
            some = torch.tensor(self.numbers(klass)[:COUNTED])
            ground = ground_masks(self.profile, self.split, some)
            self._homes[klass] = int(torch.bincount(ground[ground > 0].long()).argmax())
        return self._homes[klass]
