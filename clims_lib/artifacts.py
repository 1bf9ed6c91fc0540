"""Folders that are either whole or absent, named by what produced them.

`artifact` gives a result a folder `<name>-<key>`; the key is a hash of its recipe, all that decides
its content (stage.py says what that is). Changing a setting changes the key and the old
result stays. Who is interrupted finds the checkpoint in the partial folder and goes on from it.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file

MANIFEST, CHECKPOINT = "manifest.json", "checkpoint.pt"
SHORT = 30.0  # seconds: a team's other processes must hear something before their wait runs out


def artifact(
    root: Path,
    name: str,
    recipe: dict,
    make: Callable[[Path], None],
    about: dict | None = None,
    team: Any = None,
) -> Path:
    """Return the folder `root/<name>-<key>`, calling `make(partial folder)` only if it is absent.

    Two processes that ask for the same artifact wait for each other. `make` must leave its work
    in the folder it is handed; when it is interrupted that folder is handed to it again. about:
    more for the manifest. team (devices.Team): every process of it calls `make`, to share the work;
    the first one keeps the folder. Raises ValueError for a name with a path separator or a recipe
    that is not plain data.
    """
    if not name or Path(name).name != name:
        raise ValueError(f"an artifact's name is one folder name, not {name!r}")
    recipe = plain(recipe)
    folder = folder_of(root, name, recipe)
    if team is not None and team.size > 1:
        _share(folder, recipe, make, about or {}, team)
    elif not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock_of(folder):
            if not folder.is_dir():  # it may have been finished while we waited for the lock
                _make(folder, recipe, make, about or {})
    return folder


def _share(folder: Path, recipe: dict, make: Callable, about: dict, team: Any) -> None:
    """The first process asks for the lock and tells the others what it found; all of them work."""
    if team.rank > 0:
        while (found := team.broadcast(None)) == "wait":
            pass
        if found == "make":
            make(_partial(folder))
    else:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock_of(folder)
        while True:
            try:
                lock.acquire(timeout=SHORT)
                break
            except Timeout:
                team.broadcast("wait")
        try:
            if team.broadcast("there" if folder.is_dir() else "make") == "make":
                _make(folder, recipe, make, about)
        finally:
            lock.release()
    team.broadcast(None)  # nobody goes on before the folder has its name


def folder_of(root: Path, name: str, recipe: dict) -> Path:
    """Return where `artifact` puts, or will put, its folder."""
    return Path(root) / f"{name}-{key_of(recipe)}"


def plain(value: Any) -> Any:
    """The value as JSON reads it back: dataclasses are dictionaries, tuples are lists."""
    return json.loads(_canonical(value))


def key_of(recipe: Any) -> str:
    """Return the first 10 hex digits of the SHA-256 of the recipe's canonical JSON."""
    return hashlib.sha256(_canonical(recipe).encode()).hexdigest()[:10]


def read_manifest(folder: Path) -> dict:
    """Return a finished artifact's recipe, the seconds it took and when it was finished."""
    return read_json(Path(folder) / MANIFEST)


@contextlib.contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` when the block ends, and vanishes if it fails.

    durable: also a power cut leaves `path` whole. Off for the thousands of files of a stage, which
    takes its folder's name only when all of them are on the disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # else a power cut could leave the name on empty content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON in one step, so that no reader sees half of it."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=_plain)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ValueError naming the file when it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); delete it and make it again") from error


def rounded(value: Any, digits: int = 4) -> Any:
    """Return plain JSON values: floats rounded, scalars of arrays unpacked, nan and inf as None."""
    if isinstance(value, dict):
        return {str(key): rounded(v, digits) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in value]
    if hasattr(value, "item"):  # numpy and torch scalars
        value = value.item()
    if isinstance(value, float):
        return round(value, digits) if math.isfinite(value) else None
    return value


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write named tensors as safetensors in one step."""
    # safetensors refuses views that share memory, so every tensor is stored by itself
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(owned, temporary)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read named tensors; raises ValueError naming the file when it is broken."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return load_file(path)
    except Exception as error:
        raise ValueError(f"{path} is not a safetensors file ({error})") from error


def save_checkpoint(folder: Path, step: int, **states: Any) -> None:
    """Write where a training stands: models, optimisers, generators, or their plain states.

    An object with `state_dict` (or a `torch.Generator`) is asked for its state; tensors, numbers
    and dictionaries of them are stored as they are. Hand in `rng=torch.get_rng_state()` if the
    training draws from the global generator (dropout does).
    """
    with atomic_path(Path(folder) / CHECKPOINT) as temporary:
        torch.save({"step": step} | {name: _state(v) for name, v in states.items()}, temporary)


def load_checkpoint(folder: Path) -> dict | None:
    """Return what `save_checkpoint` wrote, `step` included, or None when there is nothing."""
    path = Path(folder) / CHECKPOINT
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


def _make(folder: Path, recipe: dict, make: Callable[[Path], None], about: dict) -> None:
    partial = _partial(folder)
    partial.mkdir(exist_ok=True)
    for path in partial.rglob("*"):  # names that a power cut left without content
        if path.is_file() and not path.stat().st_size:
            path.unlink()
    manifest = {**about, "recipe": recipe, "seconds": _seconds_so_far(partial)}
    before, started = manifest["seconds"], time.time()
    write_json(partial / MANIFEST, manifest | {"started": started})
    try:
        make(partial)
    finally:  # also when interrupted: the next attempt adds to these seconds
        manifest["seconds"] = round(before + time.time() - started, 2)
        write_json(partial / MANIFEST, manifest)
    for leftover in [*partial.rglob(CHECKPOINT), *partial.rglob(".*.tmp")]:
        leftover.unlink()
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_json(partial / MANIFEST, manifest | {"finished": finished})
    _bring_to_disk(partial)
    os.replace(partial, folder)


def _bring_to_disk(folder: Path) -> None:
    """All files of a folder, before it takes a name that says that they are whole."""
    if hasattr(os, "sync"):  # everything at once: thousands of files one by one would take minutes
        os.sync()
    else:
        for path in filter(Path.is_file, folder.rglob("*")):
            with open(path, "rb+") as file:
                os.fsync(file.fileno())


def _seconds_so_far(partial: Path) -> float:
    """Seconds of earlier attempts; of a killed one, those up to the last file it wrote."""
    if not (partial / MANIFEST).is_file():
        return 0.0
    manifest = read_json(partial / MANIFEST)
    if "started" not in manifest:
        return manifest["seconds"]
    last = max(path.stat().st_mtime for path in partial.rglob("*"))
    return manifest["seconds"] + max(0.0, last - manifest["started"])


def _lock_of(folder: Path) -> FileLock:
    """Given back by the system even if the process is killed."""
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def _canonical(recipe: Any) -> str:
    try:
        return json.dumps(
            recipe, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"a recipe holds only plain values: {error}") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} {value!r} cannot be written as JSON")


def _state(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    return value.state_dict() if hasattr(value, "state_dict") else value
