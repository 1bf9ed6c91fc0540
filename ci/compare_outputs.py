"""Compares two outputs folders of one profile bit for bit: python ci/compare_outputs.py OLD NEW

For whoever changes code that must not change results: run ci/tutorial before and after, with
`outputs` of their own, and compare. Artifacts are folders <kind>/<name>-<key>; the key differs
between versions, so they are matched by kind and name. Not compared: manifests, figures, executed
notebooks, and of results.json and metrics/ how long a run took and where. Exit status 1: something
differs or is missing.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from clims_lib.artifacts import MANIFEST, load_tensors, read_json  # noqa: E402

ABOUT_THE_RUN = ("seconds", "commit", "environment")  # keys of JSON objects, not results
Difference = tuple[float, str]  # the largest absolute one (inf: of another kind), and where


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="ci/compare_outputs.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", type=Path, help="an outputs folder, e.g. outputs/mini")
    parser.add_argument("new", type=Path, help="another one of the same profile")
    options = parser.parse_args(arguments)
    try:
        table = compare(options.old, options.new)
    except ValueError as error:
        print(f"ci/compare_outputs.py: {error}", file=sys.stderr)
        return 1
    width = max(map(len, table))
    for name, verdict in table.items():
        print(f"{name:{width}}  {verdict}")
    kinds = ("equal", "differs", "only in OLD", "only in NEW")
    counts = Counter(kind for kind in kinds for v in table.values() if v.startswith(kind))
    print(f"\n{len(table)} compared: " + ", ".join(f"{counts[k]} {k}" for k in kinds))
    return 0 if counts["equal"] == len(table) else 1


def compare(old: Path, new: Path) -> dict[str, str]:
    """Return {"<kind>/<name>": "equal", "differs ...", "only in OLD" or "only in NEW"}.

    Where one side has several of a name (of other settings, or left by earlier versions), those of
    the side that has fewer must each equal one of the other's. ValueError: a folder that does not
    exist or holds no artifacts.
    """
    here, there = find(old), find(new)
    table = {}
    for name in tqdm(sorted(here | there), desc="compared"):
        if name not in here or name not in there:
            table[name] = f"only in {'NEW' if name in there else 'OLD'}"
            continue
        found = {(a, b): difference(a, b) for a, b in product(here[name], there[name])}
        fewer, side = (here[name], 0) if len(here[name]) <= len(there[name]) else (there[name], 1)
        nearest = [
            min((d or (-1.0, "") for pair, d in found.items() if pair[side] == one))
            for one in fewer
        ]
        size, where = max(nearest)
        counts = f" ({len(here[name])} in OLD, {len(there[name])} in NEW)"
        table[name] = ("equal" if size < 0 else f"differs: {where}") + (
            counts if len(found) > 1 else ""
        )
    return table


def find(outputs: Path) -> dict[str, list[Path]]:
    """Return the finished artifacts by kind and name, and the files of results, of one folder."""
    if not outputs.is_dir():
        raise ValueError(f"{outputs} is not a folder: give outputs folders, e.g. outputs/mini")
    found = defaultdict(list)
    for folder in sorted(outputs.glob("*/*-*")):
        if folder.is_dir() and (name := re.fullmatch(r"(.+)-[0-9a-f]{10}", folder.name)):
            found[f"{folder.parent.name}/{name[1]}"].append(folder)
    if not found:
        raise ValueError(
            f"{outputs} holds no artifacts (<kind>/<name>-<key>, such as weights/cam-6df27480fb): "
            "give the folder of one profile, e.g. outputs/mini"
        )
    for file in [*outputs.glob("metrics/*.json"), *outputs.glob("results.json")]:
        found[str(file.relative_to(outputs))].append(file)
    return dict(found)


def difference(old: Path, new: Path) -> Difference | None:
    """Return the largest difference of two artifacts or two files, None where they are equal."""
    if old.is_file():
        return _largest(file_differences(old, new))
    files = [{p.relative_to(f) for p in f.rglob("*") if p.is_file()} for f in (old, new)]
    lone = sorted(f for f in files[0] ^ files[1] if f.name != MANIFEST)
    if lone:
        side = "OLD" if lone[0] in files[0] else "NEW"
        return float("inf"), f"{lone[0]} is only in {side}, {len(lone)} such files"
    both = sorted(f for f in files[0] & files[1] if f.name != MANIFEST)
    return _largest(d for f in both for d in file_differences(old / f, new / f))


def file_differences(old: Path, new: Path) -> Iterator[Difference]:
    """Yield every difference of two files; ValueError for a kind of file that is unknown."""
    a, b = dict(leaves(read(old))), dict(leaves(read(new)))
    for where in a.keys() ^ b.keys():
        side = "OLD" if where in a else "NEW"
        yield float("inf"), f"{old.name}: {where} is only in {side}"
    for where in a.keys() & b.keys():
        size = distance(a[where], b[where])
        if size is not None:
            what = "another type, shape or text" if size == float("inf") else f"by {size:.3g}"
            yield size, f"{what} in {old.name}{f', {where}' if where else ''}"


def read(file: Path) -> Any:
    """Return what a file holds: dictionaries and lists of tensors and plain values."""
    if file.suffix == ".json":
        return read_json(file)
    if file.suffix == ".safetensors":
        return load_tensors(file)
    if file.suffix == ".pt":
        return torch.load(file, map_location="cpu", weights_only=True)
    if file.suffix == ".png":
        with Image.open(file) as picture:
            return np.array(picture)
    if file.suffix in (".npy", ".npz"):
        arrays = np.load(file, allow_pickle=False)
        return arrays if file.suffix == ".npy" else dict(arrays)
    raise ValueError(f"{file}: no way to compare {file.suffix or 'such'} files; add one to read()")


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (place, value) for each tensor, array and plain value in dictionaries and lists."""
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if key not in ABOUT_THE_RUN}
    if not isinstance(value, dict) or not value:  # an empty one is a value, too
        yield where, value
        return
    for key, inner in value.items():
        yield from leaves(inner, f"{where}.{key}" if where else str(key))


def distance(a: Any, b: Any) -> float | None:
    """Return None for the same bits, else the largest absolute difference.

    inf: types, shapes or texts differ, or one is nan; 0: only the signs of zeros differ.
    """
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        a, b = torch.from_numpy(np.ascontiguousarray(a)), torch.from_numpy(np.ascontiguousarray(b))
    if type(a) is not type(b):
        return float("inf")
    if not isinstance(a, torch.Tensor):
        if a == b or (a != a and b != b):
            return None
        numbers = isinstance(a, int | float) and not isinstance(a, bool)
        return abs(a - b) if numbers and a == a and b == b else float("inf")
    if a.dtype != b.dtype or a.shape != b.shape:
        return float("inf")
    if torch.equal(_bits(a), _bits(b)):
        return None
    apart = (a.double() - b.double()).abs().max().item()
    return apart if apart == apart else float("inf")


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _largest(differences: Iterator[Difference]) -> Difference | None:
    return max(differences, default=None)


if __name__ == "__main__":
    sys.exit(main())
