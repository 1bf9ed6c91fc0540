"""MiniWorld: drawn scenes with exact masks, in which every train stands on a railroad.

Two worlds share one way of drawing. In the *target* world classes and grounds go together, so
image-level labels cannot tell train from railroad or boat from water. The *web* world, from which
CLIP learns, shows the same things apart. Shown in notebook 00.
"""

from __future__ import annotations

import ast
import hashlib
import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from clims_lib.labels import IGNORE, palette
from clims_lib.miniworld.drawing import pick
from clims_lib.miniworld.grounds import BACKDROPS
from clims_lib.miniworld.scene import (
    CLASSES,
    GROUNDS,
    HOME,
    NOUNS,
    STANDING,
    Scene,
    Thing,
    draw_scene,
)

if TYPE_CHECKING:  # the drawing processes start without torch
    import torch

__all__ = [
    "CLASSES",
    "GROUNDS",
    "HOME",
    "NOUNS",
    "STANDING",
    "Corpus",
    "Scene",
    "Thing",
    "draw_scene",
    "make_corpus",
    "target_scene",
    "web_scene",
    "write_dataset",
]

EACH_CLASS = 4  # pictures of every class in train_labelled, where there are enough
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


def write_dataset(
    root: str | Path,
    seed: int = 0,
    train: int = 2400,
    val: int = 400,
    test: int = 400,
    labelled: int = 60,
    size: int = 64,
    processes: int | None = None,
) -> Path:
    """Write target scenes as a data set in PASCAL VOC layout and return its folder.

    A folder that already holds this very MiniWorld is left as it is; if only the code that draws
    has changed since, it is drawn again. The folder appears whole or not at all, and of several
    processes one draws while the others wait. `labelled` pictures of train form the list
    train_labelled, the rest train_weak. ValueError: counts below 1, more labelled pictures than
    train has, or a root that holds another MiniWorld or something else.
    """
    from filelock import FileLock  # here: the drawing processes start without it and torch

    _check_counts(train=train, val=val, test=test, labelled=labelled)
    if labelled > train:
        raise ValueError(f"labelled={labelled} is more than the {train} pictures of train")
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, not {size}")
    root = Path(root).absolute()
    recipe: dict[str, Any] = {
        "seed": seed,
        "train": train,
        "val": val,
        "test": test,
        "labelled": labelled,
        "size": size,
        "drawing": _drawing_version(),
    }
    if _recipe_of(root) == recipe:
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.parent / f".{root.name}.lock"):
        if not _is_there(root, recipe):  # it may have been drawn while we waited for the lock
            _draw(root, recipe, palette().tobytes(), processes)
    return root


def _draw(root: Path, recipe: dict, palette: bytes, processes: int | None) -> None:
    seed = recipe["seed"]
    folder = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    try:
        for name in ("JPEGImages", "SegmentationClass", "SegmentationGround"):
            (folder / name).mkdir()
        tasks = [(split, i) for split in ("train", "val", "test") for i in range(recipe[split])]
        write = partial(_write_picture, folder, seed, recipe["size"], palette)
        labels = dict(_spread(write, tasks, processes, "MiniWorld"))
        _write_lists(folder, seed, labels, recipe["labelled"])
        (folder / "miniworld.json").write_text(json.dumps(recipe, indent=1) + "\n")
        folder.chmod(0o755)  # mkdtemp's folders are for their owner only
        _swap(folder, root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")


@cache
def _drawing_version() -> str:
    """A hash of the code that draws: pictures of other code are not the same data set.

    Of its statements, in no order and without imports, comments and docstrings: code that is only
    laid out anew, explained better or moved draws the same.
    """
    statements: list[str] = []
    for path in Path(__file__).parent.glob("*.py"):
        if path.stem != "captions":  # they describe what is drawn
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list):
                    body[:] = [statement for statement in body if not _is_mute(statement)]
            statements += map(ast.unparse, tree.body)
    return hashlib.sha256("\n".join(sorted(statements)).encode()).hexdigest()[:12]


def _is_mute(statement: ast.stmt) -> bool:
    text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return text or isinstance(statement, ast.Import | ast.ImportFrom)


def _recipe_of(root: Path) -> dict | None:
    """What a MiniWorld was drawn with; None where there is none."""
    try:
        return json.loads((root / "miniworld.json").read_text())
    except (OSError, ValueError):
        return None


def _is_there(root: Path, recipe: dict) -> bool:
    """Tell whether this MiniWorld is there; it is not if only other code has drawn it."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found = _recipe_of(root)
    if found is None:
        raise ValueError(
            f"{root} holds something that is not a MiniWorld: choose another folder or move it away"
        )
    others = [name for name in recipe if name != "drawing" and found.get(name) != recipe[name]]
    if others:
        has, says = (", ".join(f"{n}={r.get(n)}" for n in others) for r in (found, recipe))
        raise ValueError(
            f"{root} has {has}, this profile says {says}: give this MiniWorld a folder of its own "
            f"(-p data_root={root}_2), or delete that one"
        )
    return found == recipe


def _swap(folder: Path, root: Path) -> None:
    """Put the finished folder where an older one may be; nobody sees half of either."""
    old = folder.with_name(folder.name + "-old")
    if root.exists():
        root.rename(old)
    folder.rename(root)
    shutil.rmtree(old, ignore_errors=True)


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


def _write_picture(
    folder: Path, seed: int, size: int, colours: bytes, task: tuple[str, int]
) -> tuple[str, set[str]]:
    """Write one picture of the target world; returns its name and class names."""
    split, index = task
    scene = target_scene(np.random.default_rng([seed, _STREAMS[split], index]), size)
    name = f"{split}_{index:05d}"
    Image.fromarray(scene.image).save(
        folder / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0
    )
    mask = scene.mask()
    mask[_outline(scene.thing_map, scene.things)] = IGNORE
    for part, values in (("SegmentationClass", mask), ("SegmentationGround", scene.ground())):
        picture = Image.fromarray(values)
        picture.putpalette(colours)
        picture.save(folder / part / f"{name}.png")
    return name, {thing.name for thing in scene.things if thing.is_object}


def _outline(thing_map: np.ndarray, things: tuple[Thing, ...]) -> np.ndarray:
    """The ring one pixel wide just outside each object, on whatever lies behind it: bool (H, W)."""
    height, width = thing_map.shape
    first = sum(not thing.is_object for thing in things)  # objects follow, from far to near
    padded = np.pad(thing_map, 1)
    ring = np.zeros(thing_map.shape, bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        neighbour = padded[dy : dy + height, dx : dx + width]
        ring |= (neighbour >= first) & (neighbour > thing_map)
    return ring


def _write_lists(folder: Path, seed: int, labels: dict[str, set[str]], labelled: int) -> None:
    """Write ImageSets, classes.txt and grounds.txt."""
    splits = {
        split: [name for name in labels if name.startswith(split)]
        for split in ("train", "val", "test")
    }
    chosen = _choose_labelled(seed, {name: labels[name] for name in splits["train"]}, labelled)
    splits["train_labelled"] = [name for name in splits["train"] if name in chosen]
    splits["train_weak"] = [name for name in splits["train"] if name not in chosen]
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir()
    for split, names in splits.items():
        _write_lines(folder / "ImageSets" / "Segmentation" / f"{split}.txt", names)
        for label in CLASSES:
            lines = [f"{name} {1 if label in labels[name] else -1:2d}" for name in names]
            _write_lines(folder / "ImageSets" / "Main" / f"{label}_{split}.txt", lines)
    _write_lines(folder / "classes.txt", CLASSES)
    _write_lines(folder / "grounds.txt", GROUNDS)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def _choose_labelled(seed: int, labels: dict[str, set[str]], labelled: int) -> set[str]:
    """`labelled` names at random, but every class at least EACH_CLASS times where possible."""
    names = [str(name) for name in np.random.default_rng(seed).permutation(list(labels))]
    chosen: list[str] = []
    for label in CLASSES:
        have = sum(label in labels[name] for name in chosen)
        more = [name for name in names if label in labels[name] and name not in chosen]
        chosen += more[: max(0, EACH_CLASS - have)]
    chosen = chosen[:labelled]
    chosen += [name for name in names if name not in chosen][: labelled - len(chosen)]
    return set(chosen)
