"""The stage of the random walk: affinities learned from a network's maps, and maps carried further.

The affinities are learned from the confident parts of the network's maps on train pictures; no mask
is read for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clims_lib import clip_model, random_walk
from clims_lib.artifacts import load_tensors, save_tensors, write_json
from clims_lib.cam import CAMNet
from clims_lib.config import Profile
from clims_lib.data.splits import open_split, read_images
from clims_lib.devices import device_of
from clims_lib.metrics import IGNORE
from clims_lib.seeds import normalise_cam
from clims_lib.stage import make_once, resuming
from clims_lib.stages.maps import (
    REFINING,
    from_network,
    groups,
    looked_at,
    network_cams,
    read_small,
    refine,
    write_cams,
)
from clims_lib.stages.methods import WALK
from clims_lib.stages.networks import load_network
from clims_lib.training import train

# What the affinities are learned with, and what the walk over them does.
LEARNING = ("stride", "radius", "embedding", "pictures", "low", "high", "steps", "batch", "lr")
WALKING = ("stride", "radius", "beta", "times")


def walk_cams(profile: Profile, method: str, split: str, most: int | None = None) -> Path:
    """The folder of a network's maps after the walk, of a split's first `most` pictures."""
    chosen = open_split(profile, split).names[:most]

    def make(folder: Path) -> None:
        images, plain = read_images(profile, split), network_cams(profile, method, split, most)

        def load() -> Callable[[list[int]], Tensor]:
            walk = load_walk(profile, method)
            return lambda some: walk(
                images[some],
                torch.stack([read_small(profile, plain / f"{chosen[i]}.npz") for i in some]),
            )

        write_cams(profile, folder, split, chosen, load)

    made = from_walk(profile, method, split)
    made["inputs"]["count"] = len(chosen)
    return make_once(profile, "cams", f"{method}{WALK}_{split}", make, **made)


def from_walk(profile: Profile, method: str, split: str) -> dict:
    """What maps after the walk are made from, for `make_once`."""
    plain = from_network(profile, method, split)
    return {
        "settings": [*plain["settings"], *(f"walk.{name}" for name in WALKING)],
        "inputs": plain["inputs"] | {"affinities": train_affinity(profile, method)},
        "code": [*plain["code"], walk_cams],
    }


def load_walk(profile: Profile, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The random walk over a network's maps: (pictures uint8 (B, 3, S, S), maps) -> maps."""
    model, head = load_network(profile, name), load_affinity(profile, name)
    settings, device, amp = profile.walk, device_of(profile), not profile.compute.full_precision
    steps = random_walk.offsets(settings.radius)

    @torch.no_grad()
    def walk(images: Tensor, maps: Tensor) -> Tensor:
        walked = []
        for part, scores in zip(images.split(8), maps.split(8), strict=True):  # as memory is scarce
            x = part.to(device).float() / 255
            values = random_walk.affinity(head(features(model, x, settings.stride, amp)), steps)
            small = resize(scores.to(device), values.shape[-2:])
            small = random_walk.random_walk(
                small, values, steps, beta=settings.beta, times=settings.times
            )
            walked.append(resize(small, maps.shape[-2:]).cpu())
        return torch.cat(walked)

    return walk


def resize(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def features(model: CAMNet, x: Tensor, stride: int, amp: bool = True) -> list[Tensor]:
    """The backbone's features that are not finer than `stride`."""
    with clip_model.autocast(x.device, amp):
        stages = model.stages(x.contiguous(memory_format=torch.channels_last))
    return [z.float() for z in stages if z.shape[-1] <= x.shape[-1] // stride]


def new_affinity(profile: Profile, model: CAMNet) -> random_walk.AffinityHead:
    """An affinity head on the network's features, with fresh weights from the profile's seed."""
    side = 64 * profile.walk.stride
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(profile.seed)
        x = torch.zeros(1, 3, side, side, device=next(model.parameters()).device)
        channels = [z.shape[1] for z in features(model.eval(), x, profile.walk.stride, False)]
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
    settings = profile.walk

    def make(folder: Path) -> None:
        device, model = device_of(profile), load_network(profile, name)
        images = read_images(profile, "train")[: settings.pictures]
        sure = sure_labels(profile, name, "train", settings.pictures)
        sure = sure[:, :: settings.stride, :: settings.stride]
        amp = not profile.compute.full_precision

        def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(profile.seed)
            for step in count():  # from the first: what was drawn before decides what comes
                some = torch.randint(len(images), (settings.batch,), generator=generator)
                if step >= start:
                    yield images[some], sure[some]

        loss = random_walk.affinity_training_loss(
            lambda x: features(model, x.float() / 255, settings.stride, amp),
            random_walk.offsets(settings.radius),
        )
        head = new_affinity(profile, model).to(device)
        with resuming(
            folder, f"affinities of {name}", settings.steps, device, "lower walk.batch"
        ) as how:
            history = train(
                head,
                loss,
                batches,
                optimiser=torch.optim.Adam(head.parameters(), lr=settings.lr),
                amp=False,  # the features alone, as when the walk is made
                **how,
            )
        write_json(folder / "history.json", [step["loss"] for step in history])
        save_tensors(folder / "weights.safetensors", head.state_dict())

    learned = [f"walk.{name}" for name in LEARNING]
    plain = from_network(profile, name, "train")
    settings_read = [*plain["settings"], *learned, *REFINING, "seed", "data.size", "data.classes"]
    return make_once(
        profile,
        "weights",
        f"{name}{WALK}",
        make,
        settings=settings_read,
        inputs=plain["inputs"],
        code=plain["code"],
    )


def sure_labels(profile: Profile, name: str, split: str, pictures: int) -> Tensor:
    """uint8 (pictures, S, S) of a split's first pictures: objects that a CRF at walk.high finds,
    ground where one at walk.low finds none, 255 between and beyond the pictures."""
    settings, side = profile.walk, profile.data.size
    folder = network_cams(profile, name, split, looked_at(profile) if split == "train" else None)
    found = []
    for part in groups(profile, folder, split, pictures):
        maps = normalise_cam(part.cams, part.label, "max")
        low, high = refine(profile, part.images, maps, [settings.low, settings.high]).unbind(1)
        unsure = torch.full_like(low, IGNORE).masked_fill(low == 0, 0)
        sure = torch.where(high > 0, part.labels_of(high), unsure)
        beyond = (0, side - sure.shape[2], 0, side - sure.shape[1])
        found.append(F.pad(sure, beyond, value=IGNORE))
    return torch.cat(found)
