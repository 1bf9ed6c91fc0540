"""The small CLIP that is trained here: its network, the captioned views it sees, how it learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from itertools import count
from typing import Any

import torch
from torch import Tensor

from clims_lib import clip_model
from clims_lib.clip_model import CLIP
from clims_lib.config import Profile
from clims_lib.devices import device_of
from clims_lib.miniworld import world
from clims_lib.miniworld.captions import cut_views
from clims_lib.settings import Clip


@lru_cache(maxsize=1)  # training and finetuning see the same scenes, which take a minute to draw
def _corpus(captions: int) -> world.Corpus:
    return world.make_corpus(0, captions)


def small_clip(profile: Profile) -> Clip:
    """The section [clip]. Raises ValueError where the profile names a checkpoint instead."""
    if profile.clip is None:
        raise ValueError("this profile trains no CLIP: give it a section [clip]")
    return profile.clip


class CaptionBatches:
    """Batches of cut views with captions for the small CLIP; step and seed decide each one.

    The profile has a section [clip], whose shares of cut-outs they follow.
    """

    def __init__(self, profile: Profile, size: int, salt: int = 0):
        self.corpus = _corpus(profile.data.captions)
        self.size, self.seed = size // 2, 2 * profile.seed + salt
        self.resolution = profile.data.size  # the scenes are drawn at 64 pixels
        self.cuts = asdict(small_clip(profile).cutouts)

    def __call__(self, start: int) -> Iterator[tuple[Tensor, list[str]]]:
        """The batches of steps start, start + 1, ..., without end."""
        return map(self.draw, count(start))

    def draw(self, step: int) -> tuple[Tensor, list[str]]:
        """Two views each of size / 2 scenes: (size, 3, H, W) in CLIP's units, size captions."""
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        some = torch.randint(len(self.corpus.images), (self.size,), generator=g)
        images = clip_model.normalise_for_clip(self.corpus.images[some].float() / 255)
        maps, mirror = self.corpus.thing_maps[some], torch.rand(self.size, generator=g) < 0.5
        images = torch.where(mirror[:, None, None, None], images.flip(-1), images)
        maps = torch.where(mirror[:, None, None], maps.flip(-1), maps)
        things = [self.corpus.things[i] for i in some.tolist()] * 2
        images, maps = images.repeat(2, 1, 1, 1), maps.repeat(2, 1, 1)
        images, captions = cut_views(images, maps, things, g, self.cuts)
        images = clip_model.resize_for_clip(images, self.resolution)
        return images.contiguous(memory_format=torch.channels_last), captions


def untrained_clip(profile: Profile) -> CLIP:
    """The small CLIP of the profile's sizes and seed, on its device, before any training."""
    s = small_clip(profile)
    return clip_model.new_clip(
        resolution=profile.data.size,
        layers=s.layers,
        width=s.width,
        embed_dim=s.embedding,
        text_width=s.text_width,
        text_layers=s.text_layers,
        context_length=s.context,
        seed=profile.seed,
    ).to(device_of(profile), memory_format=torch.channels_last)


def learning_of_clip(profile: Profile, model: CLIP) -> dict[str, Any]:
    """How the small CLIP learns: what `training.train` is handed besides batches."""
    settings = small_clip(profile)
    optimiser, schedule = clip_model.clip_optimiser(model, settings.steps, settings.lr)
    return {
        "loss": clip_model.contrastive_training_loss(),
        "steps": settings.steps,
        "optimiser": optimiser,
        "schedule": schedule,
        "clip_norm": 1.0,
        "amp": not profile.compute.full_precision,
    }
