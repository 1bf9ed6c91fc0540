"""Runs notebooks for every combination of a grid and keeps one table: `clims sweep`."""

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
from clims_lib.data.splits import make_data, miniworld_sizes
from clims_lib.devices import cores, device_of
from clims_lib.stages.checks import check

# Folders in a profile's outputs that the runs share: all that `artifact` names by a key.
SHARED = (
    "digests",
    "splits",
    "weights",
    "cams",
    "thresholds",
    "pseudo_masks",
    "segmentations",
    "measured",
)


def run(
    grid: Path,
    notebooks: Path = ROOT / "notebooks",
    *,
    retry: bool = False,
    jobs: int | None = None,
    dask: str | None = None,
) -> int:
    """Execute the runs of a grid file that are missing; return 1 unless all are finished then.

    retry: execute the failed ones instead; jobs: runs at a time, one a core by default; dask: the
    address of a scheduler whose workers take the runs.
    """
    prepare_kernels()
    runs = plan(grid, notebooks)
    with locked(next(iter(runs)).parent):
        return sweep(runs, retry=retry, jobs=jobs, dask=dask)


def plan(grid: Path, notebooks: Path) -> dict[Path, dict]:
    """Return {folder: what run.json says} of every combination, all of them checked."""
    profile, only, axes = read_grid(grid)
    if profile.endswith(".toml"):  # kernels start in the root, not where we are
        profile = str(Path(profile).resolve())
    base = load_profile(profile)
    root = root_of(base.outputs) / grid.stem
    chosen, runs = choose(find_notebooks(notebooks), only), {}
    for values in itertools.product(*axes.values()):
        values = dict(zip(axes, values, strict=True))
        texts = [f"{name}={json.dumps(v, ensure_ascii=False)}" for name, v in values.items()]
        parameters = {"PROFILE": profile} | read_parameters(texts, chosen)
        overrides = parameters["OVERRIDES"]
        settings = load_profile(profile, overrides)
        check(settings, segmenters=False)
        given = {n: v for n, v in parameters.items() if n not in ("PROFILE", "OVERRIDES")}
        key = key_of([repr(settings), given, [n.path.name for n in chosen]])  # 8 and 8.0 are one
        folder, data_root = root / f"run-{key}", data_root_of(settings, base, root)
        overrides += [
            f"data_root={json.dumps(str(data_root))}",  # VOC_ROOT is only here
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


def data_root_of(settings: Profile, base: Profile, root: Path) -> Path:
    """A run's data set: a MiniWorld of other sizes than its profile's lies with the sweep."""
    sizes = miniworld_sizes(settings)
    other = settings.data.source == "miniworld" and sizes != miniworld_sizes(base)
    if other and settings.data_root == base.data_root:
        return root / f"miniworld-{key_of(sizes)}"
    return settings.data_root


def root_of(outputs: Path) -> Path:
    """Where a profile's sweeps are: beside its outputs, which ci/tutorial --fresh deletes."""
    return outputs.with_name(f"{outputs.name}_sweeps")


def sweep(runs: dict[Path, dict], retry: bool, jobs: int | None, dask: str | None) -> int:
    """Execute the missing runs, or those that failed; return 1 unless all are finished then."""
    settings = settings_of(next(iter(runs.values())))
    for data in {one.data_root: one for one in map(settings_of, runs.values())}.values():
        with contextlib.suppress(FileNotFoundError):  # notebook 00 downloads it, or says why not
            make_data(data)  # now, on all cores, since runs would wait for one of them to draw it
    if device_of(settings).type == "cuda":
        jobs = jobs or 1
    rows = {folder: row_of(folder) for folder in runs if status_of(folder) != "missing"}
    wanted = "failed" if retry else "missing"
    todo = [folder for folder in runs if status_of(folder) == wanted]
    for folder in todo:
        prepare(folder, runs[folder])
    executed = on_dask(todo, dask) if dask else on_cores(todo, jobs)
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
    pinned = hasattr(os, "sched_setaffinity")  # elsewhere the system shares them out
    own = sorted(os.sched_getaffinity(0)) if pinned else list(range(cores()))
    waiting, running = list(todo), {}
    jobs = min(jobs or len(own), len(todo))
    try:
        while waiting or running:
            for i in range(jobs):
                if waiting and i not in running:
                    folder, share = waiting.pop(0), own[i::jobs] or own
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
