"""Measures every method over several seeds: `clims results`.

Each stage is an artifact, so an interrupted run goes on where it stopped.
"""

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from everything import code_of_results
from tqdm import tqdm
from update_readme import update_readme

from clims_lib.artifacts import rounded, write_json
from clims_lib.config import ROOT, load_profile
from clims_lib.devices import cores
from clims_lib.results.tables import LISTS, commit, environment, results_table, sort_results

CORES = cores()


def run(profile: str, seeds: list[int], jobs: int | None = None, out: Path | None = None) -> int:
    """Write the table of the seeds and print it; return 1, writing nothing, where a seed failed.

    jobs: seeds at a time, 2 by default; out: data/results/<profile>.json by default.
    """
    name = load_profile(profile).name
    measured = measure_seeds(profile, seeds, jobs or min(2, CORES))
    extra = measure_seeds(profile, seeds[:1], 1, corpora)
    if len(measured) < len(seeds) or not extra:  # fewer seeds would be half true
        return 1
    for seed, one in extra.items():
        measured[seed]["rows"] += one["rows"]
    results = combine(measured)
    path = out or ROOT / "data" / "results" / f"{name}.json"
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


def measure(profile: str, seed: int, threads: int) -> dict:
    """Measure one seed in this process: results.json's form for that seed."""
    import torch
    from everything import measure_all

    torch.set_num_threads(threads)
    return measure_all(load_profile(profile, [f"seed={seed}"]))


def corpora(profile: str, seed: int, threads: int) -> dict:
    """What CLIMS is worth with a CLIP that was shown fewer cut-outs, for one seed."""
    import torch
    from everything import measure_corpora

    torch.set_num_threads(threads)
    return measure_corpora(load_profile(profile, [f"seed={seed}"]))


def measure_seeds(
    profile: str, seeds: list[int], jobs: int, work: Callable[[str, int, int], dict] = measure
) -> dict[int, dict]:
    """Return {seed: results} of the seeds that could be measured; the others' errors are printed.

    Each of `jobs` processes has its share of the cores: two seeds on one core each finish
    sooner than one after the other on two.
    """
    threads = max(1, CORES // jobs)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # inherited; read when a process imports torch
    spawn = multiprocessing.get_context("spawn")  # forking a process with torch threads can hang
    measured = {}
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        futures = {pool.submit(work, profile, seed, threads): seed for seed in seeds}
        for future in tqdm(as_completed(futures), total=len(seeds), desc="seeds", unit="seed"):
            try:
                measured[futures[future]] = future.result()
            except Exception as error:
                tqdm.write(f"clims results: seed {futures[future]} failed: {error!r}", sys.stderr)
    return measured


def combine(measured: dict[int, dict]) -> dict:
    """Put the seeds' rows into one table, sorted and rounded so that runs can be compared."""
    results: dict = {name: [] for name in LISTS}
    for seed, one in sorted(measured.items()):
        for name in LISTS:
            results[name] += [{"seed": seed} | row for row in one.get(name, [])]
    devices = {one.get("environment", {}).get("device", "cpu") for one in measured.values()}
    where = environment(", ".join(sorted(devices)))
    about = {"environment": where, "commit": commit(), "code": code_of_results()}
    return sort_results(rounded(results)) | about
