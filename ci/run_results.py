"""Measures every method over several seeds; `ci/results` calls it inside the environment.

Each stage is an artifact, so an interrupted run goes on where it stopped.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
CORES = len(os.sched_getaffinity(0))  # those this process may use
sys.path.insert(0, str(ROOT))

from update_readme import update_readme  # noqa: E402

from clims_lib.artifacts import rounded, write_json  # noqa: E402
from clims_lib.config import load_profile  # noqa: E402
from clims_lib.results.tables import LISTS, commit, environment, results_table, sort_results  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        name = load_profile(options.profile).name
        measured = measure_seeds(options.profile, options.seeds, options.jobs)
        extra = measure_seeds(options.profile, options.seeds[:1], 1, corpora)
    except ValueError as error:
        print(f"ci/results: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ci/results: interrupted; running it again goes on from here", file=sys.stderr)
        return 130
    if len(measured) < len(options.seeds) or not extra:  # fewer seeds would be half true
        return 1
    for seed, one in extra.items():
        measured[seed]["rows"] += one["rows"]
    results = combine(measured)
    path = options.out or ROOT / "data" / "results" / f"{name}.json"
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


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ci/results", description=__doc__.split(";")[0] + ".", allow_abbrev=False
    )
    parser.add_argument("--profile", default="mini", help="default: mini")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(2, CORES),
        help="seeds measured at the same time (default: 2)",
    )
    parser.add_argument("--out", type=Path, help="default: data/results/<profile>.json")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error("--jobs is at least 1")
    return options


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
                tqdm.write(f"ci/results: seed {futures[future]} failed: {error!r}", sys.stderr)
    return measured


def combine(measured: dict[int, dict]) -> dict:
    """Put the seeds' rows into one table, sorted and rounded so that runs can be compared."""
    results: dict = {name: [] for name in LISTS}
    for seed, one in sorted(measured.items()):
        for name in LISTS:
            results[name] += [{"seed": seed} | row for row in one.get(name, [])]
    devices = {one.get("environment", {}).get("device", "cpu") for one in measured.values()}
    where = environment(", ".join(sorted(devices)))
    return sort_results(rounded(results)) | {"environment": where, "commit": commit()}


if __name__ == "__main__":
    sys.exit(main())
