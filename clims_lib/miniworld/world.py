"""The two worlds of MiniWorld's pictures, and the corpus that CLIP learns from.

In the *target* world classes and grounds go together, so image-level labels cannot tell train from
railroad or boat from water. The *web* world shows the same things apart. Shown in notebook 00.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from clims_lib.miniworld.drawing import pick
from clims_lib.miniworld.grounds import BACKDROPS
from clims_lib.miniworld.scene import CLASSES, HOME, STANDING, Scene, Thing, draw_scene

if TYPE_CHECKING:  # the drawing processes start without torch
    import torch

_STREAMS = {"train": 0, "val": 1, "test": 2, "web": 3}  # each picture has a generator of its own


class Corpus(NamedTuple):
    """Web scenes: uint8 images (N, 3, H, W) and thing_maps (N, H, W), things as in Scene."""

    images: torch.Tensor
    thing_maps: torch.Tensor
    things: list[tuple[Thing, ...]]


def target_scene(rng: np.random.Generator, size: int = 64) -> Scene:
    """A picture of the target world: the trap.

    Trains only on railroads, boats only on water, aeroplanes mostly in the sky, cows on grass,
    cars on roads; railroads and water never without train and boat; persons anywhere.
    """
    main = pick(rng, CLASSES, (1, 1, 1, 1, 0.95, 1))
    objects, ground = [main], HOME.get(main, "")
    if main == "person":
        ground = pick(rng, ("grass", "road", "pavement", "sand", "floor"))
    elif main == "aeroplane" and rng.random() < 0.17:
        ground = pick(rng, ("road", "grass"), (0.7, 0.3))
    if main != "person" and rng.random() < 0.25:
        objects.append("person")
    if rng.random() < 0.17:
        objects.append(main)
    if ground in ("road", "grass") and rng.random() < 0.12:
        objects.append({"road": "car", "grass": "cow"}[ground])
    return draw_scene(rng, objects[:3], ground, _backdrop(rng, ground), size)


def web_scene(rng: np.random.Generator, size: int = 64) -> Scene:
    """A picture of the web world: grounds alone, and objects mostly away from home.

    A quarter of the pictures shows grounds alone; of the others one in five is at an object's
    home ground.
    """
    if rng.random() < 0.25:
        ground = pick(rng, STANDING, (1, 1.6, 1, 1, 1.8, 1, 1, 1))
        return draw_scene(rng, [], ground, _backdrop(rng, ground), size)
    count = pick(rng, (1, 2, 3), (0.6, 0.32, 0.08))
    objects = [pick(rng, CLASSES, (1, 1, 1, 1, 1.3, 1)) for _ in range(count)]
    homes = [HOME[name] for name in objects if name in HOME]
    if homes and rng.random() < 0.2:
        ground = pick(rng, homes)
    else:
        ground = pick(rng, [name for name in STANDING if name not in homes])
    return draw_scene(rng, objects, ground, _backdrop(rng, ground), size)


def _backdrop(rng: np.random.Generator, ground: str) -> str | None:
    if ground == "floor" or rng.random() < 0.4:
        return None
    return pick(rng, BACKDROPS)


def make_corpus(seed: int = 0, size_n: int = 24000, processes: int | None = None) -> Corpus:
    """Draw `size_n` scenes of the web world (about 2 ms each on two cores).

    The thing maps let the caller cut things out of the pictures; CLIP sees cut-outs and captions,
    never a mask. processes: how many draw at a time (default: one a core). ValueError: a count
    below 1.
    """
    import torch

    _check_counts(size_n=size_n)
    images = np.empty((size_n, 64, 64, 3), np.uint8)
    maps = np.empty((size_n, 64, 64), np.uint8)
    things: list[tuple[Thing, ...]] = []
    scenes = _spread(partial(_web_picture, seed), range(size_n), processes, "web scenes")
    for i, scene in enumerate(scenes):
        images[i], maps[i] = scene.image, scene.thing_map
        things.append(scene.things)
    return Corpus(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(maps), things
    )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")


def _spread(make: Callable, tasks: Iterable, processes: int | None, title: str) -> Iterable:
    """make(task) for every task, in order, on several processes, with a progress bar."""
    tasks = list(tasks)
    if processes is None:
        from clims_lib.devices import (
            cores,
        )  # brings torch, which a drawing process need not wait for

        processes = cores()
    if processes < 1:
        raise ValueError(f"processes must be at least 1, not {processes}")
    if processes == 1 or len(tasks) < 200:  # starting processes would take longer
        yield from tqdm(map(make, tasks), total=len(tasks), desc=title)
        return
    # spawn: a fork of a process in which torch already runs threads can hang
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from tqdm(pool.imap(make, tasks, chunksize=32), total=len(tasks), desc=title)


def _web_picture(seed: int, index: int) -> Scene:
    return web_scene(np.random.default_rng([seed, _STREAMS["web"], index]))
