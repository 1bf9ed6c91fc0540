"""The target world as a data set: drawn once, into a folder in PASCAL VOC's layout.

`miniworld.json` in the folder says what it was drawn with: no other MiniWorld is ever replaced, and
what older drawing code drew is drawn again.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clims_lib.labels import IGNORE, palette
from clims_lib.miniworld.scene import CLASSES, GROUNDS, Thing
from clims_lib.miniworld.world import _STREAMS, _check_counts, _spread, target_scene

EACH_CLASS = 4  # pictures of every class in train_labelled, where there are enough


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
