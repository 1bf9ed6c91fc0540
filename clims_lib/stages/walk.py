"""The stage of the random walk: affinities learned from a network's maps, and maps carried further.

The affinities are learned from the confident parts of the network's maps on train pictures; no mask
is read for them. How is told in walk_ours.py and walk_released.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from clims_lib.artifacts import load_tensors, save_tensors, write_json
from clims_lib.config import Profile
from clims_lib.data.splits import open_split, read_images, read_sizes, subset, subset_settings
from clims_lib.stage import make_once, resuming
from clims_lib.stages.maps import from_network, network_cams, read_small, write_cams
from clims_lib.stages.methods import WALK
from clims_lib.stages.sure_labels import sure_labels as sure_labels  # for notebook 04
from clims_lib.stages.walk_ours import Ours, resize
from clims_lib.stages.walk_ours import features as features
from clims_lib.stages.walk_released import AffinityNet, IRNetEdges
from clims_lib.training import train

FORMS: dict[str, type[Ours]] = {"ours": Ours, "affinitynet": AffinityNet, "irnet": IRNetEdges}


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
    plain, form = from_network(profile, method, split), FORMS[profile.walk.form]
    return {
        "settings": [*plain["settings"], *(f"walk.{name}" for name in form.walking)],
        "inputs": plain["inputs"] | {"affinities": train_affinity(profile, method)},
        "code": [*plain["code"], walk_cams, form],
    }


def form_of(profile: Profile, name: str) -> Ours:
    """The profile's form of the walk over a network's maps, with the network that it looks at."""
    return FORMS[profile.walk.form](profile, name)


def load_walk(profile: Profile, name: str) -> Callable[..., Tensor]:
    """The random walk over a network's maps.

    (pictures uint8 (B, 3, S, S), maps (B, K, h, w), the pictures' own sizes (B, 2), by default the
    canvas's) -> maps (B, K, h, w).
    """
    form, head = form_of(profile, name), load_affinity(profile, name)

    @torch.no_grad()
    def walk(images: Tensor, maps: Tensor, sizes: Tensor | None = None) -> Tensor:
        if sizes is None:
            sizes = torch.tensor([images.shape[-2:]] * len(images))
        walked = []
        for parts in zip(images.split(8), maps.split(8), sizes.split(8), strict=True):
            part, scores, own = (one.to(form.device) for one in parts)  # few, as memory is scarce
            found = form.walk(head, part.float() / 255, scores, own)
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

    def make(folder: Path) -> None:
        form, steps = form_of(profile, name), profile.walk.steps
        head = form.new_head().to(form.device)
        how = form.training(head)
        advice = "lower walk.batch"
        with resuming(folder, f"affinities of {name}", steps, form.device, advice) as resumed:
            # amp: the features alone, as when the walk is made
            history = train(head, amp=False, **how, **resumed)
        write_json(folder / "history.json", [step["loss"] for step in history])
        save_tensors(folder / "weights.safetensors", head.state_dict())

    made = FORMS[profile.walk.form].made_from(profile, name)
    return make_once(profile, "weights", f"{name}{WALK}", make, **made)
