"""The stage of the random walk: affinities learned from a network's maps, and maps carried further.

The affinities are learned from the confident parts of the network's maps on train pictures; no mask
is read for them. How is told in walk_ours.py and walk_released.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clims_lib.artifacts import load_tensors, save_tensors, write_json
from clims_lib.config import Profile
from clims_lib.data.splits import open_split, read_images, read_sizes, subset, subset_settings
from clims_lib.stage import make_once, resuming
from clims_lib.stages.maps import from_network, network_cams, read_small, write_cams
from clims_lib.stages.methods import WALK
from clims_lib.stages.sure_labels import sure_labels as sure_labels  # for notebook 04
from clims_lib.stages.walk_ours import (
    Ours,
    batches_of_ours,
    from_ours,
    learning_of_ours,
    resize,
    walk_ours,
)
from clims_lib.stages.walk_ours import features as features
from clims_lib.stages.walk_released import (
    AffinityNet,
    IRNetEdges,
    batches_of_crops,
    from_affinitynet,
    from_irnet,
    learning_of_affinitynet,
    learning_of_irnet,
    walk_affinitynet,
    walk_irnet,
)
from clims_lib.training import Batches, train


class Form(NamedTuple):
    """What each form of the walk is, apart for each stage that runs a part of it.

    head: its head and network; made_from: what it learns from; learning: the loss and optimiser;
    batches; walk: maps over what it learned; walking: the settings that the walk reads.
    """

    head: type[Ours]
    made_from: Callable[[Profile, str], dict[str, Any]]
    learning: Callable[..., dict[str, Any]]
    batches: Callable[..., Batches]
    walk: Callable[..., Tensor]
    walking: tuple[str, ...]


QUARTERS = ("walk.form", "walk.radius", "walk.beta", "walk.times")
PLACES = (*QUARTERS, "walk.stride")
WALKS = {
    "ours": Form(Ours, from_ours, learning_of_ours, batches_of_ours, walk_ours, PLACES),
    "affinitynet": Form(
        AffinityNet,
        from_affinitynet,
        learning_of_affinitynet,
        batches_of_crops,
        walk_affinitynet,
        PLACES,
    ),
    "irnet": Form(
        IRNetEdges, from_irnet, learning_of_irnet, batches_of_crops, walk_irnet, QUARTERS
    ),
}


def walk_cams(profile: Profile, method: str, split: str, most: int | None = None) -> Path:
    """The folder of a network's maps after the walk, of `most` of a split's pictures."""
    chosen = subset(profile, split, most)

    def make(folder: Path) -> None:
        images, plain = read_images(profile, split), network_cams(profile, method, split, most)
        names, sizes = open_split(profile, split).names, read_sizes(profile, split)

        def load() -> Callable[[list[int]], Tensor]:
            walk = load_walk(profile, method)
            return lambda some: walk(
                images[some],
                torch.stack([read_small(profile, plain / f"{names[i]}.npz") for i in some]),
                sizes[some],
            )

        write_cams(profile, folder, split, chosen, load)

    made = from_walk(profile, method, split)
    made["settings"] += subset_settings(profile, split, most)
    made["inputs"]["count"] = len(chosen)
    return make_once(profile, "cams", f"{method}{WALK}_{split}", make, **made)


def from_walk(profile: Profile, method: str, split: str) -> dict:
    """What maps after the walk are made from, for `make_once`."""
    plain, form = from_network(profile, method, split), WALKS[profile.walk.form]
    return {
        "settings": [*plain["settings"], *form.walking],
        "inputs": plain["inputs"] | {"affinities": train_affinity(profile, method)},
        "code": [*plain["code"], walk_cams, form.head, form.walk],
    }


def form_of(profile: Profile, name: str) -> Ours:
    """The profile's form of the walk over a network's maps, with the network that it looks at."""
    return WALKS[profile.walk.form].head(profile, name)


def load_walk(profile: Profile, name: str) -> Callable[..., Tensor]:
    """The random walk over a network's maps.

    (pictures uint8 (B, 3, S, S), maps (B, K, h, w), the pictures' own sizes (B, 2), by default the
    canvas's) -> maps (B, K, h, w).
    """
    form, head = form_of(profile, name), load_affinity(profile, name)
    carried = WALKS[profile.walk.form].walk

    @torch.no_grad()
    def walk(images: Tensor, maps: Tensor, sizes: Tensor | None = None) -> Tensor:
        if sizes is None:
            sizes = torch.tensor([images.shape[-2:]] * len(images))
        walked = []
        for parts in zip(images.split(8), maps.split(8), sizes.split(8), strict=True):
            part, scores, own = (one.to(form.device) for one in parts)  # few, as memory is scarce
            found = carried(form, head, part.float() / 255, scores, own)
            walked.append(resize(found, maps.shape[-2:]).cpu())
        return torch.cat(walked)

    return walk


def borders(profile: Profile, name: str, images: Tensor) -> Tensor:
    """What the affinities of a network's maps call a border: (B, h, w) in [0, 1], on the CPU.

    images: uint8 (B, 3, S, S).
    """
    form, head = form_of(profile, name), load_affinity(profile, name)
    with torch.no_grad():
        return form.borders(head, images.to(form.device).float() / 255).cpu()


def load_affinity(profile: Profile, name: str) -> nn.Module:
    """The trained head of a network's maps, trained now when it is not there yet."""
    form = form_of(profile, name)
    head = form.new_head()
    head.load_state_dict(load_tensors(train_affinity(profile, name) / "weights.safetensors"))
    return head.to(form.device).eval()


def train_affinity(profile: Profile, name: str) -> Path:
    """Learn which places belong together from the confident parts of a network's maps.

    No mask is read: the labels are what CRFs at a low and at a high threshold agree on. Returns the
    folder of weights and history.json.
    """

    kind = WALKS[profile.walk.form]

    def make(folder: Path) -> None:
        form, steps = form_of(profile, name), profile.walk.steps
        head = form.new_head().to(form.device)
        how = kind.learning(form, head) | {"batches": kind.batches(form)}
        advice = "lower walk.batch"
        with resuming(folder, f"affinities of {name}", steps, form.device, advice) as resumed:
            # amp: the features alone, as when the walk is made
            history = train(head, amp=False, **how, **resumed)
        write_json(folder / "history.json", [step["loss"] for step in history])
        save_tensors(folder / "weights.safetensors", head.state_dict())

    made = kind.made_from(profile, name)
    made["code"] += [kind.head, kind.learning, kind.batches]
    return make_once(profile, "weights", f"{name}{WALK}", make, **made)
