"""Measures every method over several seeds: `clims results`.

Each stage is an artifact, so an interrupted run goes on where it stopped.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from everything import code_of_results, measure_all, measure_corpora
from tqdm import tqdm
from update_readme import update_readme

from clims_lib.artifacts import rounded, write_json
from clims_lib.config import ROOT, load_profile
from clims_lib.devices import cores
from clims_lib.results.tables import LISTS, commit, environment, results_table, sort_results
from clims_lib.results.verdicts import picture_errors
from clims_lib.stages.checks import check

CORES = cores()


def run(profile: str, seeds: list[int], jobs: int | None = None, out: Path | None = None) -> int:
    """Write the table of the seeds and print it; return 1, writing nothing, where a seed failed.

    jobs: parts of the table at a time, 2 by default; out: data/results/<profile>.json by default.
    """
    settings = load_profile(profile)
    check(settings, row="clims")
    measured = measure_seeds(profile, seeds, jobs or min(2, CORES))
    if len(measured) < len(seeds):  # fewer seeds would be half true
        return 1
    results = combine(measured, settings.data.classes)
    path = out or ROOT / "data" / "results" / f"{settings.name}.json"
    write_json(path, results)
    if path == ROOT / "data" / "results" / "mini.json":
        update_readme()
    print(
        f"\nPer cent, mean ± sample standard deviation over seeds "
        f"{' '.join(map(str, sorted(measured)))}"
    )
    print(results_table(results["rows"]))
    print(f"\n{path}")
    return 0


def methods(profile: str, seed: int, threads: int) -> dict:
    """Measure all methods of one seed in this process: results.json's form for that seed."""
    torch.set_num_threads(threads)
    return measure_all(profile, seed)


def corpora(profile: str, seed: int, threads: int) -> dict:
    """What CLIMS is worth with a CLIP that was shown fewer cut-outs, for one seed."""
    torch.set_num_threads(threads)
    return measure_corpora(profile, seed)


PARTS = (methods, corpora)  # of the table, the longest first


def measure_seeds(
    profile: str, seeds: list[int], jobs: int, parts: tuple[Callable, ...] = PARTS
) -> dict[int, dict]:
    """Return {seed: results} of the seeds of which all parts could be measured."""
    tasks = {(seed, part): (part, profile, seed) for part in parts for seed in seeds}
    found, measured = side_by_side(tasks, jobs, "parts of seeds"), {}
    for seed in seeds:
        if all((seed, part) in found for part in parts):
            measured[seed] = merged([found[seed, part] for part in parts])
    return measured


def side_by_side(tasks: Mapping[Hashable, tuple], jobs: int, title: str) -> dict[Hashable, Any]:
    """{key: what function(*arguments, threads) returned} of {key: (function, *arguments)}.

    Each of `jobs` processes has its share of the cores: two tasks on one core each finish sooner
    than one after the other on two. The errors of those that fail are printed.
    """
    threads = max(1, CORES // jobs)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # inherited; read when a process imports torch
    spawn = multiprocessing.get_context("spawn")  # forking a process with torch threads can hang
    found = {}
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        futures = {pool.submit(*task, threads): key for key, task in tasks.items()}
        for future in tqdm(as_completed(futures), total=len(tasks), desc=title):
            try:
                found[futures[future]] = future.result()
            except Exception as error:
                function, *given = tasks[futures[future]]
                said = " ".join(map(str, [function.__name__, *given]))
                tqdm.write(f"{said} failed: {error!r}", sys.stderr)
    return found


def merged(parts: list[dict]) -> dict:
    """The parts of one seed as one: lists one after the other, dictionaries together."""
    whole: dict = {}
    for part in parts:
        for name, value in part.items():
            known = whole.get(name)
            if isinstance(value, list):
                whole[name] = [*(known or []), *value]
            else:
                whole[name] = {**(known or {}), **value}
    return whole


def combine(measured: dict[int, dict], classes: tuple[str, ...] = ()) -> dict:
    """Put the seeds' rows into one table, sorted and rounded so that runs can be compared.

    "claims" holds each one's standard error over the pictures.
    """
    results: dict = {name: [] for name in LISTS}
    for seed, one in sorted(measured.items()):
        for name in LISTS:
            results[name] += [{"seed": seed} | row for row in one.get(name, [])]
    devices = {one.get("environment", {}).get("device", "cpu") for one in measured.values()}
    where = environment(", ".join(sorted(devices)))
    errors = picture_errors(
        {seed: as_tensors(one.get("counts", {})) for seed, one in measured.items()},
        {seed: as_tensors(one.get("hits", {})) for seed, one in measured.items()},
        classes,
    )
    claims = [{"claim": claim, "error": error} for claim, error in errors.items()]
    about = {"environment": where, "commit": commit(), "code": code_of_results()}
    return sort_results(rounded(results)) | {"claims": rounded(claims)} | about


def as_tensors(value: Any) -> Any:
    """Dictionaries and tuples of arrays as those of tensors."""
    if isinstance(value, dict):
        return {name: as_tensors(inner) for name, inner in value.items()}
    return tuple(map(as_tensors, value)) if isinstance(value, tuple) else torch.as_tensor(value)
