"""The random walks of the two releases of CLIMS: AffinityNet and IRNet, on the profile's backbone.

Both learn from crops of all sizes, labelled by masks that a CRF of their own refined, with the
optimiser that their code really ran. In both, maps that were divided by their maxima walk, each
picture as if there were nothing beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clims_lib import irnet, random_walk
from clims_lib.batches import DrawnBatches
from clims_lib.cam import CAMNet
from clims_lib.config import Profile
from clims_lib.data.splits import read_images, read_sizes, split_folder, subset, subset_settings
from clims_lib.optimisers import new_optimiser, new_schedule
from clims_lib.seeds import normalise_cam
from clims_lib.stages.first_weights import first_weights
from clims_lib.stages.networks import train_cam
from clims_lib.stages.sure_labels import make_sure_labels, read_sure_labels
from clims_lib.stages.untrained import NETWORK, OF_CAM, new_network
from clims_lib.stages.walk_ours import Ours, carry, features, resize

# The settings of [walk] that training reads: of both forms, of one.
BOTH = ("form", "pictures", "steps", "batch", "crop", "resize", "lr", "weight_decay")
AFFINITYNET = ("stride", "radius", "embedding")
EDGES = ("training_radius", "displacement_lr_factor")


class AffinityNet(Ours):
    """AffinityNet's pairs with our head on the CAM network's features: its ResNet-38 is not to be
    had. Pairs are nearer than the radius, and none begins at a picture's outer places.
    """

    @property
    def neighbours(self) -> list[tuple[int, int]]:
        return list(irnet.edge_paths(int(self.settings.radius)))

    @property
    def border(self) -> int:
        return int(self.settings.radius) - 1


def from_affinitynet(profile: Profile, name: str) -> dict[str, Any]:
    """What AffinityNet learns from, for `make_once`."""
    read = ("data.classes", "compute.full_precision")
    return {
        "settings": [*_read(profile, AFFINITYNET), *read],
        "inputs": _inputs(profile, name) | {"network": train_cam(profile, name)},
        "code": [],
    }


def learning_of_affinitynet(form: AffinityNet, head: nn.Module) -> dict[str, Any]:
    """`training.train`'s loss, optimiser and schedule."""
    loss = random_walk.affinity_training_loss(
        form.features, form.neighbours, form.border, guard="add"
    )
    parts = [(list(head.parameters()), 1.0)]
    return {"loss": loss} | _released(form, parts, "released_nesterov")


def walk_affinitynet(
    form: AffinityNet, head: nn.Module, x: Tensor, maps: Tensor, sizes: Tensor
) -> Tensor:
    """As `walk_ours`, each picture by itself."""
    values = random_walk.affinity(head(form.features(x)), form.neighbours)
    places = -(-sizes // form.settings.place)
    values = values * random_walk.own_places(places, values.shape[-2:], form.border)
    return carry(form, values, divided(maps))


class IRNetEdges(Ours):
    """IRNet, its displacements included, on the backbone's first weights: ImageNet's."""

    def network(self) -> CAMNet:
        net = new_network(self.profile).to(self.device)
        return net.to(memory_format=torch.channels_last).eval()

    def features(self, x: Tensor) -> list[Tensor]:
        return features(self.model, x, 1, not self.profile.compute.full_precision)

    def new_head(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.profile.seed)
            return irnet.IRNet(self.model.backbone.channels)

    def borders(self, head: nn.Module, x: Tensor) -> Tensor:
        """(B, h, w) in [0, 1]: the edges themselves."""
        assert isinstance(head, irnet.IRNet)
        return irnet.edge_map(head, self.features, x)[:, 0]


def from_irnet(profile: Profile, name: str) -> dict[str, Any]:
    """What IRNet learns from, for `make_once`."""
    return {
        "settings": [*_read(profile, EDGES), *NETWORK, *OF_CAM, "compute.full_precision"],
        "inputs": _inputs(profile, name) | {"first weights": first_weights(profile)},
        "code": [],
    }


def learning_of_irnet(form: IRNetEdges, head: nn.Module) -> dict[str, Any]:
    """`training.train`'s loss, optimiser and schedule."""
    assert isinstance(head, irnet.IRNet) and head.displacement is not None
    settings = form.settings
    parts = [
        (list(head.edge.parameters()), 1.0),
        (list(head.displacement.parameters()), settings.displacement_lr_factor),
    ]
    loss = irnet.irnet_training_loss(form.features, settings.training_radius)
    return {"loss": loss} | _released(form, parts, "released_sgd")


def walk_irnet(form: IRNetEdges, head: nn.Module, x: Tensor, maps: Tensor, sizes: Tensor) -> Tensor:
    """As `walk_ours`, each picture by itself: beyond it, all is edge."""
    assert isinstance(head, irnet.IRNet)
    edge, how = irnet.edge_map(head, form.features, x), form.settings
    own = random_walk.own_places(-(-sizes // how.place), edge.shape[-2:])
    return irnet.walk_to_edges(
        resize(divided(maps), edge.shape[-2:]),
        edge.masked_fill(~own, 1.0),
        radius=int(how.radius),
        beta=how.beta,
        times=how.times,
    )


def batches_of_crops(form: Ours) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
    """`training.train`'s batches: crops, and their sure labels in the middle of each place."""
    settings, images = form.settings, read_images(form.profile, "train")
    chosen = subset(form.profile, "train", settings.pictures)
    drawn = DrawnBatches(
        images if len(chosen) == len(images) else images[chosen],  # all stay on disk
        read_sure_labels(form.profile, form.name),
        settings.batch,
        settings.steps,
        form.profile.seed,
        read_sizes(form.profile, "train")[chosen],
        settings.crop,
        settings.resize,
        device=form.device,
    )
    place = settings.place

    def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x, masks in drawn(start):
            assert masks is not None
            yield x, masks[:, place // 2 :: place, place // 2 :: place]

    return batches


def divided(maps: Tensor) -> Tensor:
    """Maps (B, K, h, w), each divided by its maximum, as the releases keep them on disk."""
    return normalise_cam(maps, maps.new_ones(maps.shape[:2]), "max", 1e-5)


def _read(profile: Profile, more: Sequence[str]) -> list[str]:
    read = [f"walk.{setting}" for setting in (*BOTH, *more)]
    return [*read, *subset_settings(profile, "train", profile.walk.pictures), "seed", "data.size"]


def _inputs(profile: Profile, name: str) -> dict[str, str | Path]:
    labels = make_sure_labels(profile, name)
    return {"images": split_folder(profile, "train"), "sure labels": labels}


def _released(
    form: Ours, parts: Sequence[tuple[list[nn.Parameter], float]], kind: str
) -> dict[str, Any]:
    """A released optimiser, in which the groups alone decay the weights, and its schedule.

    parts: parameters of the head, and the factor of their rate.
    """
    lr, decay = form.settings.lr, form.settings.weight_decay
    groups = [{"params": some, "lr": lr * factor, "weight_decay": decay} for some, factor in parts]
    optimiser = new_optimiser(kind, groups, lr, decay)
    return {"optimiser": optimiser, "schedule": new_schedule(kind, optimiser, form.settings.steps)}
