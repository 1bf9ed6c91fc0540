"""The random walks of the two releases of CLIMS: AffinityNet and IRNet, on the profile's backbone.

Both learn from crops of all sizes, labelled by masks that a CRF of their own refined, with the
optimiser that their code really ran. In both, maps that were divided by their maxima walk, each
picture as if there were nothing beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clims_lib import irnet, random_walk
from clims_lib.batches import DrawnBatches
from clims_lib.cam import CAMNet
from clims_lib.config import Profile
from clims_lib.data.splits import read_images, read_sizes, split_folder, subset, subset_settings
from clims_lib.seeds import normalise_cam
from clims_lib.stages.maps import from_network
from clims_lib.stages.networks import NETWORK, OF_CAM, first_weights, new_network
from clims_lib.stages.sure_labels import make_sure_labels, read_sure_labels
from clims_lib.stages.walk_ours import Ours, features, resize
from clims_lib.training import new_optimiser, new_schedule


class AffinityNet(Ours):
    """AffinityNet's pairs and loss, with our head on the CAM network's features: its ResNet-38 is
    not to be had. Pairs are nearer than the radius, and none begins at a picture's outer places.
    """

    learning: tuple[str, ...] = (
        *("form", "stride", "radius", "embedding", "pictures", "steps", "batch"),
        *("crop", "resize", "lr", "weight_decay"),
    )
    optimiser = "released_nesterov"

    @classmethod
    def made_from(cls, profile: Profile, name: str) -> dict[str, Any]:
        plain = from_network(profile, name, "train")
        return {
            "settings": [*cls.read(profile), "data.classes", "compute.full_precision"],
            "inputs": cls.labels_of(profile, name) | {"network": plain["inputs"]["network"]},
            "code": [cls],
        }

    @classmethod
    def read(cls, profile: Profile) -> list[str]:
        read = [f"walk.{setting}" for setting in cls.learning]
        read += subset_settings(profile, "train", profile.walk.pictures)
        return [*read, "seed", "data.size"]

    @staticmethod
    def labels_of(profile: Profile, name: str) -> dict[str, str | Path]:
        labels = make_sure_labels(profile, name)
        return {"images": split_folder(profile, "train"), "sure labels": labels}

    @property
    def neighbours(self) -> list[tuple[int, int]]:
        return list(irnet.edge_paths(int(self.settings.radius)))

    @property
    def border(self) -> int:
        return int(self.settings.radius) - 1

    def loss(self) -> Any:
        return random_walk.affinity_training_loss(
            self.features, self.neighbours, self.border, guard="add"
        )

    def groups(self, head: nn.Module) -> list[dict[str, Any]]:
        """The head's parameters with their rates; as released, the groups alone decay."""
        settings = self.settings
        decay = {"weight_decay": settings.weight_decay}
        return [{"params": list(head.parameters()), "lr": settings.lr} | decay]

    def learns(self, head: nn.Module) -> dict[str, Any]:
        settings = self.settings
        optimiser = new_optimiser(
            self.optimiser, self.groups(head), settings.lr, settings.weight_decay
        )
        schedule = new_schedule(self.optimiser, optimiser, settings.steps)
        return {"loss": self.loss(), "optimiser": optimiser, "schedule": schedule}

    def batches(self) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
        settings, images = self.settings, read_images(self.profile, "train")
        chosen = subset(self.profile, "train", settings.pictures)
        drawn = DrawnBatches(
            images if len(chosen) == len(images) else images[chosen],  # all stay on disk
            read_sure_labels(self.profile, self.name),
            settings.batch,
            settings.steps,
            self.profile.seed,
            read_sizes(self.profile, "train")[chosen],
            settings.crop,
            settings.resize,
            device=self.device,
        )
        place = settings.place

        def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
            for x, masks in drawn(start):
                assert masks is not None
                yield x, masks[:, place // 2 :: place, place // 2 :: place]

        return batches

    def own(self, sizes: Tensor, size: torch.Size, border: int = 0) -> Tensor:
        """bool (B, 1, h, w): the places of the pictures themselves, of `size` on the canvas."""
        return random_walk.own_places(-(-sizes // self.settings.place), size, border)

    def walk(self, head: nn.Module, x: Tensor, maps: Tensor, sizes: Tensor) -> Tensor:
        values = random_walk.affinity(head(self.features(x)), self.neighbours)
        values = values * self.own(sizes, values.shape[-2:], self.border)
        return self.carry(values, resize(divided(maps), values.shape[-2:]))


class IRNetEdges(AffinityNet):
    """IRNet's way, with its displacements, on the backbone's first weights: ImageNet's."""

    learning = (
        *("form", "training_radius", "pictures", "steps", "batch", "crop", "resize"),
        *("lr", "displacement_lr_factor", "weight_decay"),
    )
    walking = ("form", "radius", "beta", "times")
    optimiser = "released_sgd"

    @classmethod
    def made_from(cls, profile: Profile, name: str) -> dict[str, Any]:
        first = {"first weights": first_weights(profile)}
        return {
            "settings": [*cls.read(profile), *NETWORK, *OF_CAM, "compute.full_precision"],
            "inputs": cls.labels_of(profile, name) | first,
            "code": [cls],
        }

    def network(self) -> CAMNet:
        net = new_network(self.profile).to(self.device)
        return net.to(memory_format=torch.channels_last).eval()

    def features(self, x: Tensor) -> list[Tensor]:
        return features(self.model, x, 1, not self.profile.compute.full_precision)

    def new_head(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.profile.seed)
            return irnet.IRNet(self.model.backbone.channels)

    def loss(self) -> Any:
        return irnet.irnet_training_loss(self.features, self.settings.training_radius)

    def groups(self, head: nn.Module) -> list[dict[str, Any]]:
        settings, found = self.settings, []
        for name, factor in (("edge", 1.0), ("displacement", settings.displacement_lr_factor)):
            parameters = list(head.get_submodule(name).parameters())
            rate, decay = settings.lr * factor, settings.weight_decay
            found.append({"params": parameters, "lr": rate, "weight_decay": decay})
        return found

    def walk(self, head: nn.Module, x: Tensor, maps: Tensor, sizes: Tensor) -> Tensor:
        assert isinstance(head, irnet.IRNet)
        edge, how = irnet.edge_map(head, self.features, x), self.settings
        edge = edge.masked_fill(~self.own(sizes, edge.shape[-2:]), 1.0)
        return irnet.walk_to_edges(
            resize(divided(maps), edge.shape[-2:]),
            edge,
            radius=int(how.radius),
            beta=how.beta,
            times=how.times,
        )

    def borders(self, head: nn.Module, x: Tensor) -> Tensor:
        """(B, h, w) in [0, 1]: the edges themselves."""
        assert isinstance(head, irnet.IRNet)
        return irnet.edge_map(head, self.features, x)[:, 0]


def divided(maps: Tensor) -> Tensor:
    """Maps (B, K, h, w), each divided by its maximum, as the releases keep them on disk."""
    return normalise_cam(maps, maps.new_ones(maps.shape[:2]), "max", 1e-5)
