"""The subcommands that run, show, measure and grade the notebooks, by the programs of ci/."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clims_lib.commands.options import (
    at_least_one,
    data_root,
    in_checkout,
    profile_option,
    program,
    setting_options,
)
from clims_lib.config import CHECKOUT


def tutorial(parser: argparse.ArgumentParser) -> Callable:
    """Execute the numbered notebooks in order; what is finished is kept."""
    profile_option(parser)
    _notebook_options(parser)
    return lambda **options: program("run_tutorial").run(**options)


def _notebook_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NN",
        default=[],
        help="execute only these notebooks, e.g. --only 03 04",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="delete the profile's outputs and make everything again; with --only, "
        "execute those notebooks again and delete nothing",
    )
    setting_options(parser, "a parameter of the notebooks (SEED=1) or a setting (clims.epochs=2)")
    _notebooks_option(parser)


def _notebooks_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--notebooks",
        type=Path,
        default=CHECKOUT / "notebooks",
        help="folder of the notebooks (default: notebooks)",
    )


def sample(parser: argparse.ArgumentParser) -> Callable:
    """Execute the notebooks on a few hundred photographs in VOC's layout.

    The same as `clims tutorial --profile voc2012_sample --data-root FOLDER`.
    """
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="holds JPEGImages, SegmentationClass and ImageSets/Segmentation/{train,val}.txt",
    )
    _notebook_options(parser)

    def run(folder: Path, overrides: list[str], **options: Any) -> None:
        if not (folder / "JPEGImages").is_dir():
            raise ValueError(f"{folder} has no folder JPEGImages: --help says what it holds")
        overrides = [*overrides, data_root(str(folder))]
        program("run_tutorial").run("voc2012_sample", overrides, **options)

    return run


def lab(parser: argparse.ArgumentParser) -> Callable:
    """Open JupyterLab on the notebooks; other options go to `jupyter lab`."""
    parser.set_defaults(passed_on=[])

    def run(passed_on: list[str]) -> None:
        notebooks = in_checkout("notebooks")
        words = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={notebooks}", *passed_on]
        os.execv(words[0], words)

    return run


def explore(parser: argparse.ArgumentParser) -> Callable:
    """Serve the explorers as a page without code, by Voila."""
    profile_option(parser)
    setting_options(parser)
    parser.add_argument("--port", type=int, default=8866, help="default: 8866")
    parser.add_argument(
        "--ip",
        default="127.0.0.1",
        help="0.0.0.0 lets other machines of the room in (default: this one only)",
    )
    return lambda **options: program("run_explore").run(**options)


def exercises(parser: argparse.ArgumentParser) -> Callable:
    """Make the students' version of the exercises and grade what they hand in."""
    parser.add_argument(
        "--grade",
        type=Path,
        metavar="FOLDER",
        help="grade FOLDER/<student>/<assignment>/<assignment>.ipynb, too; this "
        "executes the students' code",
    )
    return lambda **options: program("run_exercises").run(**options)


def book(parser: argparse.ArgumentParser) -> Callable:
    """Build a static site of the executed notebooks, results and docstrings."""
    profile_option(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=CHECKOUT / "outputs" / "book",
        help="folder of the site; it is replaced (default: outputs/book)",
    )
    return lambda **options: program("run_book").run(**options)


def results(parser: argparse.ArgumentParser) -> Callable:
    """Measure every method over several seeds, for the committed table."""
    profile_option(parser)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument(
        "--jobs",
        type=at_least_one,
        help="parts of the table measured at the same time (default: 2, where there are two cores)",
    )
    parser.add_argument("--out", type=Path, help="default: data/results/<profile>.json")
    return lambda **options: program("run_results").run(**options)


def tuning(parser: argparse.ArgumentParser) -> Callable:
    """Try grids of settings for each method on val: data/results/<profile>_tuning.json."""
    profile_option(parser)
    parser.add_argument(
        "--jobs",
        type=at_least_one,
        help="trials at the same time (default: 2, where there are two cores)",
    )
    return lambda **options: program("tuning").run(**options)


def sweep(parser: argparse.ArgumentParser) -> Callable:
    """Run notebooks for every combination of a grid and keep one table.

    A grid is a TOML file, say weights.toml:

        profile = "mini"                  # or a .toml file, as for clims tutorial
        only = ["03"]                     # the notebooks of a run; without this line all of them
        [grid]                            # each combination is one run
        SEED = [0, 1, 2]                  # a parameter of the notebooks
        losses.weights.cbs = [0.0, 8.0]   # a setting of the profile; of prompts, a list of lists

    `clims sweep weights.toml` then writes outputs/mini_sweeps/weights/: sweep.csv (and
    sweep.parquet) with a row a run, and for each run a folder with its executed notebooks, figures
    and results.json. Runs share what is trained with each other and with clims tutorial. Both the
    folders and the table are written as runs finish: after Ctrl-C or kill -9 the same command
    executes only what is missing. Failed runs are listed with their error; --retry executes them
    again, and nothing else. A grid over a MiniWorld's sizes (data.train, ...) draws each one beside
    its runs.

    On Slurm, with the package dask-jobqueue and this checkout on a shared disk that has file locks:

        from dask_jobqueue import SLURMCluster
        cluster = SLURMCluster(cores=1, job_cpu=4, memory="8GB", walltime="08:00:00")
        cluster.scale(jobs=20)              # twenty jobs, each with one run at a time
        print(cluster.scheduler_address)    # for clims sweep weights.toml --dask ADDRESS
        input("Enter ends the cluster")
    """
    parser.add_argument("grid", type=Path, help="a TOML file as above")
    parser.add_argument(
        "--retry", action="store_true", help="execute the failed runs again, and only those"
    )
    parser.add_argument(
        "--jobs",
        type=at_least_one,
        help="runs at a time, each on its share of the cores (default: one a core; with a GPU one)",
    )
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="execute on this Dask scheduler's workers, e.g. tcp://10.0.0.1:8786",
    )
    _notebooks_option(parser)
    return lambda **options: program("run_sweep").run(**options)


def bench(parser: argparse.ArgumentParser) -> Callable:
    """Run the benchmarks and render ci/benchmarks/README.md; a GPU is used where there is one."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these, e.g. crf miou")
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="real photographs in VOC's layout for the CRF, whose README then tells of them",
    )
    return lambda **options: program("run_bench").run(**options)
