"""The maps of every method: a network's own, or carried further by a random walk ("_walk").

The walk's affinities are learned from the confident parts of the network's maps on train pictures;
no mask is read for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clims_lib import clip_model, random_walk
from clims_lib.artifacts import (
    artifact,
    key_in,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
    write_json,
)
from clims_lib.cam import CAMNet
from clims_lib.config import Profile
from clims_lib.data.splits import open_split, read_images
from clims_lib.devices import bar, device_of, explains_out_of_memory
from clims_lib.metrics import IGNORE
from clims_lib.seeds import normalise_cam
from clims_lib.stages.maps import enlarge, groups, keep_cams, network_maps, read_small, refine
from clims_lib.stages.networks import load_network, train_cam
from clims_lib.training import train

WALK = "_walk"


def network_of(method: str) -> str:
    """The method of the network behind the maps: "clims" of "clims_walk"."""
    return method.removesuffix(WALK)


def train_maps(profile: Profile, method: str) -> Path:
    """Train what the method's maps need; returns the folder of what was trained last."""
    train = train_affinity if method.endswith(WALK) else train_cam
    return train(profile, network_of(method))


def make_cams(profile: Profile, method: str, split: str, count: int | None = None) -> Path:
    """The folder of a method's maps of a split's first `count` pictures, one file each.

    What is in a file is told in maps.py.
    """
    name, weights = network_of(method), train_maps(profile, method)
    plain = make_cams(profile, name, split, count) if method != name else None

    def load():
        images = read_images(profile, split)
        if plain is None:
            maps_of = network_maps(profile, name)
            return lambda some: maps_of(images[some])
        names, walk = open_split(profile, split).names, load_walk(profile, name)
        return lambda some: walk(
            images[some],
            torch.stack([read_small(profile, plain / f"{names[i]}.npz") for i in some]),
        )

    return keep_cams(profile, method, split, load, weights, count)


def looked_at(profile: Profile) -> int:
    """How many train pictures thresholds and affinities look at."""
    return max(profile.inference.chosen_on, profile.crf.chosen_on, profile.walk.pictures)


def compute_cams(profile: Profile, method: str, images: Tensor) -> Tensor:
    """Maps (N, K, S, S) of a few pictures uint8 (N, 3, S, S), before normalisation."""
    name, parts = network_of(method), images.split(profile.inference.batch)
    maps_of = network_maps(profile, name)
    maps = [maps_of(part) for part in parts]
    if method != name:
        walk = load_walk(profile, name)
        maps = [walk(part, m) for part, m in zip(parts, maps, strict=True)]
    return enlarge(torch.cat(maps), profile.inference.stride)


def load_walk(profile: Profile, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The random walk over a network's maps: (pictures uint8 (B, 3, S, S), maps) -> maps."""
    model, head = load_network(profile, name), load_affinity(profile, name)
    settings, device = profile.walk, device_of(profile)
    steps = random_walk.offsets(settings.radius)

    @torch.no_grad()
    def walk(images: Tensor, maps: Tensor) -> Tensor:
        walked = []
        for part, scores in zip(images.split(8), maps.split(8), strict=True):  # as memory is scarce
            x = part.to(device).float() / 255
            values = random_walk.affinity(head(features(model, x, settings.stride)), steps)
            small = resize(scores.to(device), values.shape[-2:])
            small = random_walk.random_walk(
                small, values, steps, beta=settings.beta, times=settings.times
            )
            walked.append(resize(small, maps.shape[-2:]).cpu())
        return torch.cat(walked)

    return walk


def resize(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def features(model: CAMNet, x: Tensor, stride: int) -> list[Tensor]:
    """The backbone's features that are not finer than `stride`."""
    with clip_model.autocast(x.device, True):
        stages = model.stages(x.contiguous(memory_format=torch.channels_last))
    return [z.float() for z in stages if z.shape[-1] <= x.shape[-1] // stride]


def new_affinity(profile: Profile, model: CAMNet) -> random_walk.AffinityHead:
    """An affinity head on the network's features, with fresh weights from the profile's seed."""
    side = 64 * profile.walk.stride
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(profile.seed)
        x = torch.zeros(1, 3, side, side, device=next(model.parameters()).device)
        channels = [z.shape[1] for z in features(model.eval(), x, profile.walk.stride)]
        return random_walk.AffinityHead(channels, profile.walk.embedding)


def load_affinity(profile: Profile, name: str) -> random_walk.AffinityHead:
    """The trained affinity head of a network's maps, trained now when it is not there yet."""
    head = new_affinity(profile, load_network(profile, name))
    head.load_state_dict(load_tensors(train_affinity(profile, name) / "weights.safetensors"))
    return head.to(device_of(profile)).eval()


def train_affinity(profile: Profile, name: str) -> Path:
    """Learn which places belong together from the confident parts of a network's maps.

    No mask is read: the labels are what CRFs at a low and at a high threshold agree on. Returns the
    folder of weights and history.json.
    """
    settings, weights = profile.walk, train_cam(profile, name)

    def make(folder: Path) -> None:
        device, model = device_of(profile), load_network(profile, name)
        images = read_images(profile, "train")[: settings.pictures]
        sure = sure_labels(profile, name, "train", settings.pictures)

        sure = sure[:, :: settings.stride, :: settings.stride]

        def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(profile.seed)
            for step in count():  # from the first: what was drawn before decides what comes
                some = torch.randint(len(images), (settings.batch,), generator=generator)
                if step >= start:
                    yield images[some], sure[some]

        loss = random_walk.affinity_training_loss(
            lambda x: features(model, x.float() / 255, settings.stride),
            random_walk.offsets(settings.radius),
        )
        head, state = new_affinity(profile, model).to(device), load_checkpoint(folder)
        with (
            bar(settings.steps, f"affinities of {name}", (state or {}).get("step", 0)) as progress,
            explains_out_of_memory(device, "lower walk.batch"),
        ):
            history = train(
                head,
                loss,
                batches,
                steps=settings.steps,
                optimiser=torch.optim.Adam(head.parameters(), lr=settings.lr),
                amp=False,  # the features alone, as when the walk is made
                state=state,
                save=lambda state: save_checkpoint(folder, **state),
                progress=progress,
            )
        write_json(folder / "history.json", [step["loss"] for step in history])
        save_tensors(folder / "weights.safetensors", head.state_dict())

    recipe = {
        "walk": settings,
        "weights": key_in(weights),
        "inference": profile.inference,
        "crf": profile.crf,
        "seed": profile.seed,
    }
    return artifact(profile.outputs / "weights", f"{name}{WALK}", recipe, make)


def sure_labels(profile: Profile, name: str, split: str, count: int) -> Tensor:
    """uint8 (count, S, S) of a split's first pictures: objects that a CRF at walk.high finds,
    ground where one at walk.low finds none, 255 between and beyond the pictures."""
    settings, side = profile.walk, profile.data.size
    folder = make_cams(profile, name, split, looked_at(profile) if split == "train" else None)
    found = []
    for part in groups(profile, folder, split, count):
        maps = normalise_cam(part.cams, part.label, "max")
        low, high = refine(profile, part.images, maps, [settings.low, settings.high]).unbind(1)
        unsure = torch.full_like(low, IGNORE).masked_fill(low == 0, 0)
        sure = torch.where(high > 0, part.labels_of(high), unsure)
        beyond = (0, side - sure.shape[2], 0, side - sure.shape[1])
        found.append(F.pad(sure, beyond, value=IGNORE))
    return torch.cat(found)
