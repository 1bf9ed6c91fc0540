"""Runs notebooks for every combination of a grid and keeps one table; `ci/sweep` calls it.

A grid is a TOML file, say weights.toml:

    profile = "mini"                    # or a .toml file, as for ci/tutorial
    only = ["03"]                       # the notebooks of a run; without this line all of them
    [grid]                              # each combination is one run
    SEED = [0, 1, 2]                    # a parameter of the notebooks
    losses.weights.cbs = [0.0, 8.0]     # a setting of the profile; of prompts, a list of lists

`ci/sweep weights.toml` then writes outputs/mini_sweeps/weights/: sweep.csv (and sweep.parquet) with
a row a run, and for each run a folder with its executed notebooks, figures and results.json. Runs
share what is trained with each other and with ci/tutorial. Both the folders and the table are
written as runs finish: after Ctrl-C or kill -9 the same command executes only what is missing.
Failed runs are listed with their error; --retry executes them again, and nothing else.

On Slurm, with the package dask-jobqueue and this checkout on a shared disk that has file locks:

    from dask_jobqueue import SLURMCluster
    cluster = SLURMCluster(cores=1, job_cpu=4, memory="8GB", walltime="08:00:00")
    cluster.scale(jobs=20)              # twenty jobs, each with one run at a time
    print(cluster.scheduler_address)    # for ci/sweep weights.toml --dask ADDRESS
    input("Enter ends the cluster")
"""

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from run_tutorial import (
    ROOT,
    TutorialError,
    choose,
    find_notebooks,
    locked,
    prepare_kernels,
    read_parameters,
)
from sweep_table import FAILED, RUN, read_grid, row_of, status_of, write_parquet, write_table
from tqdm import tqdm

from clims_lib.artifacts import key_of, write_json
from clims_lib.config import Profile, load_profile
from clims_lib.data.splits import make_data
from clims_lib.devices import device_of
from clims_lib.losses import check_weights

# Folders in a profile's outputs that the runs share: all that `artifact` names by a key.
SHARED = ("weights", "splits", "cams", "thresholds", "pseudo_masks", "segmentations", "measured")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    prepare_kernels()
    try:
        runs = plan(options.grid, options.notebooks)
        with locked(next(iter(runs)).parent):
            return sweep(runs, options)
    except ValueError as error:
        print(f"ci/sweep: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ci/sweep: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ci/sweep",
        description=__doc__.replace("; `ci/sweep` calls it", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("grid", type=Path, help="a TOML file as above")
    parser.add_argument(
        "--retry", action="store_true", help="execute the failed runs again, and only those"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        help="runs at a time, each on its share of the cores (default: one a core; with a GPU one)",
    )
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="execute on this Dask scheduler's workers, e.g. tcp://10.0.0.1:8786",
    )
    parser.add_argument(
        "--notebooks",
        type=Path,
        default=ROOT / "notebooks",
        help="folder of the notebooks (default: notebooks)",
    )
    options = parser.parse_args(arguments)
    if options.jobs is not None and options.jobs < 1:
        parser.error("--jobs is at least 1")
    return options


def plan(grid: Path, notebooks: Path) -> dict[Path, dict]:
    """Return {folder: what run.json says} of every combination, all of them checked."""
    profile, only, axes = read_grid(grid)
    if profile.endswith(".toml"):  # kernels start in the root, not where we are
        profile = str(Path(profile).resolve())
    root = root_of(load_profile(profile).outputs) / grid.stem
    chosen, runs = choose(find_notebooks(notebooks), only), {}
    for values in itertools.product(*axes.values()):
        values = dict(zip(axes, values, strict=True))
        texts = [f"{name}={json.dumps(v, ensure_ascii=False)}" for name, v in values.items()]
        parameters = {"PROFILE": profile} | read_parameters(texts, chosen)
        overrides = parameters["OVERRIDES"]
        settings = load_profile(profile, overrides)
        check_weights(settings.losses.weights)
        given = {n: v for n, v in parameters.items() if n not in ("PROFILE", "OVERRIDES")}
        key = key_of([repr(settings), given, [n.path.name for n in chosen]])  # 8 and 8.0 are one
        folder = root / f"run-{key}"
        overrides += [
            f"data_root={json.dumps(str(settings.data_root))}",  # VOC_ROOT is only here
            f"outputs={json.dumps(str(folder))}",
        ]
        runs.setdefault(
            folder,
            {
                "values": values,
                "parameters": parameters,
                "split": settings.data.evaluated[0],
                "notebooks": str(notebooks.resolve()),
                "only": [n.path.name[:2] for n in chosen],
            },
        )
    return runs


def root_of(outputs: Path) -> Path:
    """Where a profile's sweeps are: beside its outputs, which ci/tutorial --fresh deletes."""
    return outputs.with_name(f"{outputs.name}_sweeps")


def sweep(runs: dict[Path, dict], options: argparse.Namespace) -> int:
    """Execute the missing runs, or those that failed; return 1 unless all are finished then."""
    settings = settings_of(next(iter(runs.values())))
    with contextlib.suppress(FileNotFoundError):  # then notebook 00 downloads it, or says why not
        make_data(settings)  # now, since runs side by side would all draw it
    if device_of(settings).type == "cuda":
        options.jobs = options.jobs or 1
    rows = {folder: row_of(folder) for folder in runs if status_of(folder) != "missing"}
    wanted = "failed" if options.retry else "missing"
    todo = [folder for folder in runs if status_of(folder) == wanted]
    for folder in todo:
        prepare(folder, runs[folder])
    executed = on_dask(todo, options.dask) if options.dask else on_cores(todo, options.jobs)
    done = len(runs) - len(todo)
    with (
        contextlib.closing(executed),  # Ctrl-C ends the runs, too
        tqdm(total=len(runs), initial=done, desc="runs", unit="run") as bar,
    ):
        write_tables(runs, rows)
        for folder, ending in executed:
            if status_of(folder) == "missing":
                write_json(
                    folder / FAILED,
                    {
                        "error": f"its process ended: {ending} (often: not "
                        "enough memory, try fewer --jobs)"
                    },
                )
            rows[folder] = row_of(folder)
            write_tables(runs, rows)
            bar.update()
    return report(runs, rows)


def settings_of(run: dict) -> Profile:
    return load_profile(run["parameters"]["PROFILE"], run["parameters"]["OVERRIDES"])


def prepare(folder: Path, run: dict) -> None:
    """Write run.json and link the folders of artifacts, so that no run trains what is there."""
    profile = load_profile(run["parameters"]["PROFILE"])
    write_json(folder / RUN, run)
    for name in SHARED:
        (profile.outputs / name).mkdir(parents=True, exist_ok=True)
        if not (folder / name).is_symlink():
            place = os.path.relpath((profile.outputs / name).resolve(), folder.resolve())
            (folder / name).symlink_to(place)


def write_tables(runs: dict[Path, dict], rows: dict[Path, dict]) -> None:
    """Write the tables of the runs that are finished or failed, in the grid's order."""
    folder, run = next(iter(runs.items()))
    table = folder.parent / "sweep.csv"
    write_table(table, [rows[folder] for folder in runs if folder in rows], list(run["values"]))
    write_parquet(table)


def report(runs: dict[Path, dict], rows: dict[Path, dict]) -> int:
    """Print the failed runs and where the table is; return 1 unless all runs are finished."""
    failed = [row for row in rows.values() if row["status"] == "failed"]
    finished = len(rows) - len(failed)
    print(f"\n{finished} of {len(runs)} runs finished, {len(failed)} failed")
    for row in failed:
        values = " ".join(f"{name}={row[name]}" for name in next(iter(runs.values()))["values"])
        print(f"  {values}: {row['error']}\n    {row.get('notebook') or row['run']}")
    if failed:
        print("--retry executes the failed runs again")
    print(next(iter(runs)).parent / "sweep.csv")
    return 0 if finished == len(runs) else 1


def command(folder: Path) -> list[str]:
    return [sys.executable, str(ROOT / "ci/sweep_run.py"), str(folder)]


def on_cores(todo: list[Path], jobs: int | None) -> Iterator[tuple[Path, str]]:
    """Execute runs in processes of this machine; yield each with how its process ended."""
    cores, waiting, running = sorted(os.sched_getaffinity(0)), list(todo), {}
    jobs = min(jobs or len(cores), len(todo))
    try:
        while waiting or running:
            for i in range(jobs):
                if waiting and i not in running:
                    folder, share = waiting.pop(0), cores[i::jobs] or cores
                    running[i] = (
                        folder,
                        subprocess.Popen(
                            [*command(folder), ",".join(map(str, share))], start_new_session=True
                        ),
                    )  # out of Ctrl-C's reach: it is for us alone
            time.sleep(0.1)
            for i, (folder, process) in list(running.items()):
                if process.poll() is not None:
                    del running[i]
                    yield folder, f"exit status {process.returncode}"
    finally:
        for _, process in running.values():
            process.kill()
            process.wait()


def on_dask(todo: list[Path], address: str) -> Iterator[tuple[Path, str]]:
    """Execute runs on the workers of a Dask cluster; yield each with how its process ended."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise TutorialError("--dask needs the package distributed (the extra `sweep`)") from None
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise TutorialError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        # a function of the standard library, so that workers need nothing but this checkout's disk
        futures = {
            client.submit(subprocess.call, command(folder), pure=False): folder for folder in todo
        }
        for future in as_completed(futures):
            yield futures[future], repr(future.exception() or future.result())


if __name__ == "__main__":
    sys.exit(main())
