"""Executes the numbered notebooks in order: `clims tutorial`."""

import ast
import contextlib
import hashlib
import json
import os
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import nbformat
import papermill
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from tqdm import tqdm

from clims_lib import let_idle_threads_sleep
from clims_lib.artifacts import read_json, write_json
from clims_lib.config import ROOT, Profile, did_you_mean, load_profile
from clims_lib.costs import gpu_called
from clims_lib.data.splits import data_digest
from clims_lib.devices import device_of
from clims_lib.results.budget import budget, this_gpu
from clims_lib.results.readiness import reasons, refuse
from clims_lib.results.report import render_report
from clims_lib.results.tables import beyond_spread, gather_results, results_table
from clims_lib.stages.checks import check
from clims_lib.stages.clip import missing, runnable

REQUIRED = ("PROFILE", "SEED", "OVERRIDES")  # in every notebook's parameters cell
STATE = "clims_tutorial"  # the executed notebook's metadata that says what it was made from


class TutorialError(ValueError):
    """Something the user can put right; the message says what."""


@dataclass(frozen=True)
class Notebook:
    """A source notebook: its path, its cells and the names in its parameters cell."""

    path: Path
    cells: list
    parameters: frozenset[str]

    @property
    def code(self) -> list[str]:
        return [cell.source for cell in self.cells if cell.cell_type == "code"]


def run(
    profile: str,
    overrides: Sequence[str] = (),
    *,
    only: Sequence[str] = (),
    fresh: bool = False,
    notebooks: Path = ROOT / "notebooks",
) -> None:
    """Execute what is not up to date, then gather results.json and report.html.

    profile: a name or the whole path of a .toml file, as kernels start in the root; overrides: its
    settings and the notebooks' parameters, NAME=VALUE; only: numbers of notebooks, all when empty.
    Raises TutorialError naming the cell at which a notebook stopped.
    """
    prepare_kernels()
    everything = find_notebooks(notebooks)
    chosen = choose(everything, only)
    parameters = read_parameters(overrides, everything) | {"PROFILE": profile}
    settings = load_profile(profile, parameters["OVERRIDES"])
    check(settings)  # now, not when a notebook meets what does not fit
    if settings.data.source == "voc" and os.environ.get("VOC_ROOT"):
        # a parameter of the notebooks, so that they say which data they saw
        parameters["OVERRIDES"].append(f"data_root={json.dumps(str(settings.data_root))}")
    said: set[str] = set()
    with locked(settings.outputs):
        if fresh and not only:
            delete(settings.outputs)
        downloads = chosen[0] is everything[0] and parameters.get("DOWNLOAD") is True
        check_ready(settings, downloads, weights=chosen != everything[:1])
        settings.outputs.mkdir(parents=True, exist_ok=True)
        with tqdm(chosen, desc="notebooks", unit="notebook", position=0) as bar:
            for notebook in bar:
                absent = missing(settings)  # asked anew: notebook 00 may download it
                for what in absent.keys() - said:
                    tqdm.write(f"Cells that need {what} are left out: {absent[what]}")
                said |= absent.keys()
                if notebook is not everything[0]:  # it offers to download what is absent
                    check_pseudo_masks(settings)
                state = partial(state_of, notebook, everything, parameters, absent)
                executed, started = settings.outputs / notebook.path.name, time.time()
                if is_finished(executed, state()) and not fresh:
                    tqdm.write(f"{notebook.path.name}: nothing changed, kept")
                    continue
                seconds = execute(notebook, executed, parameters, state, absent)
                tqdm.write(f"{notebook.path.name}: {seconds:.0f} s")
                for reason, names in made_anew(settings.outputs, started).items():
                    tqdm.write(f"  {reason}: {', '.join(names)}")
        gather(settings, whole=not only)


def check_ready(profile: Profile, downloads: bool, weights: bool) -> None:
    """Raise TutorialError with all that a run on photographs lacks: hours later it would stop.

    downloads: notebook 00 fetches data and weights; weights: notebooks after it run, too.
    """
    if profile.data.source == "voc":
        on_gpu = device_of(profile).type == "cuda"
        rows = budget(profile, gpu_called(this_gpu()), costs=on_gpu)
        if found := reasons(profile, rows, downloads=downloads, weights=weights):
            raise TutorialError(refuse(profile, found))


def check_pseudo_masks(profile: Profile) -> None:
    """Raise TutorialError where the later notebooks' pseudo masks need weights that are absent."""
    method = profile.pseudo.method
    if not runnable(profile, [method]):
        raise TutorialError(
            f"the pseudo masks of notebooks 04 to 06 come from {method}, but "
            f"{missing(profile)['clip']}; or go without CLIP: -p pseudo.method=cam_walk"
        )


def find_notebooks(folder: Path) -> list[Notebook]:
    """Return the numbered notebooks in order; raises TutorialError where one cannot take part."""
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise TutorialError(f"no notebooks named NN_*.ipynb in {folder}")
    notebooks = []
    for path in paths:
        cells = nbformat.read(path, as_version=4).cells
        tagged = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
        names = assigned_names(tagged[0]) if tagged else frozenset()
        missing = [name for name in REQUIRED if name not in names]
        if missing:
            raise TutorialError(
                f"{path.name} needs a cell tagged `parameters` that sets {', '.join(missing)}"
            )
        notebooks.append(Notebook(path, cells, names))
    return notebooks


def assigned_names(source: str) -> frozenset[str]:
    targets = [
        t for node in ast.parse(source).body if isinstance(node, ast.Assign) for t in node.targets
    ]
    targets += [n.target for n in ast.parse(source).body if isinstance(n, ast.AnnAssign)]
    return frozenset(target.id for target in targets if isinstance(target, ast.Name))


def choose(notebooks: list[Notebook], only: Sequence[str]) -> list[Notebook]:
    """Return the notebooks whose names start with one of the given numbers, in their order."""
    numbers = [notebook.path.name[:2] for notebook in notebooks]
    for number in only:
        if number not in numbers:
            raise TutorialError(
                f"--only {number}: no such notebook; there are {', '.join(numbers)}"
            )
    return [n for n in notebooks if not only or n.path.name[:2] in only]


def read_parameters(values: Sequence[str], notebooks: list[Notebook]) -> dict:
    """Return {name: value} for papermill; settings of the profile are gathered in OVERRIDES."""
    names = frozenset().union(*(notebook.parameters for notebook in notebooks))
    settings = {field.name for field in fields(Profile)} - {"name", "seed"}
    parameters: dict = {"OVERRIDES": []}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals:
            raise TutorialError(f"-p takes name=value, not {text!r}")
        if name == "PROFILE":
            raise TutorialError("use --profile instead of -p PROFILE=...")
        if name == "OVERRIDES":
            raise TutorialError("give each setting by itself, as in -p clims.epochs=2")
        if name in names:
            parameters[name] = literal(value)
        elif "." in name or name in settings:
            parameters["OVERRIDES"].append(text)
        else:
            nearest = name.upper() if name.upper() in names else name
            raise TutorialError(
                f"-p {name}: no notebook has this parameter"
                f"{did_you_mean(nearest, names | settings)}"
            )
    return parameters


def literal(text: str):
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parameters_of(notebook: Notebook, parameters: dict) -> dict:
    return {name: value for name, value in parameters.items() if name in notebook.parameters}


def state_of(
    notebook: Notebook, notebooks: list[Notebook], parameters: dict, absent: dict[str, str]
) -> str:
    """Return a hash of all that can change an executed notebook.

    That is its source, its parameters, its predecessors' code, the library, the profile, what the
    data set holds, what is absent and the committed results it quotes; prose of other notebooks is
    left out, so that correcting a sentence executes one notebook.
    """
    settings = load_profile(parameters["PROFILE"], parameters["OVERRIDES"])
    before = [n for n in notebooks if n.path.name < notebook.path.name]
    files = [
        *sorted((ROOT / "clims_lib").rglob("*.py")),
        *sorted((ROOT / "data" / "results").glob("*.json")),
    ]
    parts = [
        [(cell.cell_type, cell.source) for cell in notebook.cells],
        [n.code for n in before],
        [parameters_of(n, parameters) for n in [*before, notebook]],
        repr(load_profile(parameters["PROFILE"])),  # what it extends included
        [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files],
        sorted(absent),
        data_digest(settings),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def made_anew(outputs: Path, since: float) -> dict[str, list[str]]:
    """{"losses.py changed": ["clims", "clims_crf", ...]}: what was made since a time although
    something of its name was there, and why; stages write that into their manifests."""
    found: dict[str, list[str]] = {}
    for path in sorted(outputs.glob("*/*/manifest.json"), key=lambda path: path.stat().st_mtime):
        if path.stat().st_mtime >= since and path.parts[-3] in ("weights", "measured"):
            reason = ", ".join(read_json(path).get("why", []))
            names, name = found.setdefault(reason, []), path.parts[-2].rpartition("-")[0]
            names += [name] if name not in names else []
    return {reason: names for reason, names in found.items() if reason}


def is_finished(executed: Path, state: str) -> bool:
    if not executed.is_file():
        return False
    try:
        return nbformat.read(executed, as_version=4).metadata.get(STATE, {}).get("state") == state
    except Exception:  # not a notebook any more: execute it again
        return False


def leave_out(cells: list, absent: dict[str, str]) -> None:
    """Turn code cells tagged needs-<something absent> into a sentence that says why."""
    for cell in cells:
        reasons = [
            why for what, why in absent.items() if f"needs-{what}" in cell.metadata.get("tags", [])
        ]
        if reasons:
            cell.cell_type = "markdown"
            cell.source = (
                f"**Not run here**: {'; '.join(reasons)}.\n\n```python\n{cell.source}\n```"
            )
            cell.pop("outputs", None)
            cell.pop("execution_count", None)


def execute(
    notebook: Notebook,
    executed: Path,
    parameters: dict,
    state: Callable[[], str],
    absent: dict[str, str],
) -> float:
    """Execute one notebook into place and return its seconds.

    Until it is finished its copy is called NN_*.unfinished.ipynb, so that a finished copy is whole.
    state: `state_of`, asked afterwards: notebook 00 may draw or fetch the data that it depends on.
    """
    unfinished = executed.with_suffix(".unfinished.ipynb")
    started = time.time()
    source = nbformat.read(notebook.path, as_version=4)
    leave_out(source.cells, absent)
    nbformat.write(source, unfinished)
    bar = {"desc": notebook.path.stem, "position": 1, "leave": False}
    try:
        papermill.execute_notebook(
            str(unfinished),
            str(unfinished),
            parameters_of(notebook, parameters),
            kernel_name="python3",
            progress_bar=bar,
            cwd=str(ROOT),
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )  # it warns of local sockets
    except KeyboardInterrupt:
        raise
    except Exception as error:  # a failing cell, a dead kernel
        raise TutorialError(failure(notebook, unfinished, error)) from error
    seconds = time.time() - started
    result = nbformat.read(unfinished, as_version=4)
    result.metadata[STATE] = {"state": state(), "seconds": round(seconds, 1)}
    nbformat.write(result, unfinished)
    os.replace(unfinished, executed)
    return seconds


def failure(notebook: Notebook, unfinished: Path, error: Exception) -> str:
    """Return which cell of the source notebook failed, its first line and the error."""
    what = (
        f"{error.ename}: {error.evalue}"
        if isinstance(error, papermill.PapermillExecutionError)
        else f"{type(error).__name__}: {error}"
    )
    if isinstance(error, DeadKernelError):
        what += " (often: not enough memory)"
    where = notebook.path.name
    cell = failed_cell(unfinished)
    if cell is not None:
        first = next((line for line in cell.source.splitlines() if line.strip()), "")
        sources = [c.source for c in notebook.cells]
        number = (
            f"cell {sources.index(cell.source) + 1} of {len(sources)}, "
            if cell.source in sources
            else ""
        )
        where += f", {number}In [{cell.execution_count}]: {first.strip()}"
    return (
        f"stopped at {where}\n{what.strip()}\nThe notebook up to there is {unfinished}. What "
        "was finished is kept: running the same command again goes on from there."
    )


def failed_cell(unfinished: Path):
    """Return the code cell that failed or was at work last; None if the kernel never started."""
    if not unfinished.is_file():
        return None
    started = [
        cell
        for cell in nbformat.read(unfinished, as_version=4).cells
        if cell.cell_type == "code" and cell.metadata.get("papermill", {}).get("start_time")
    ]
    failed = [cell for cell in started if cell.metadata.papermill.get("exception")]
    return next(iter(failed or reversed(started)), None)


def gather(profile: Profile, whole: bool) -> None:
    """Write results.json and report.html and print this run beside the committed table."""
    metrics = profile.outputs / "metrics"
    if not any(metrics.glob("*.json")):
        print("Nothing was measured, so there is no results.json.")
        return
    try:
        results = gather_results(metrics)
    except ValueError as error:
        if whole:
            raise
        print(f"results.json is left as it was: {error}")
        return
    committed_file = ROOT / "data" / "results" / f"{profile.name}.json"
    committed = read_json(committed_file) if committed_file.is_file() else {"rows": []}
    write_json(profile.outputs / "results.json", results)
    render_report(results, profile.outputs / "figures", profile.outputs / "report.html", committed)
    print(
        f"\nPer cent on {profile.headline}"
        + (", committed mean ± spread over seeds beside it" if committed["rows"] else "")
    )
    print(results_table(results["rows"], committed["rows"]))
    for sentence in beyond_spread(results["rows"], committed["rows"]):
        print(f"note: {sentence}")
    print(f"\n{profile.outputs / 'report.html'}")


@contextlib.contextmanager
def locked(outputs: Path) -> Iterator[None]:
    """Keep a second ci/tutorial or ci/sweep from writing into the same folder at the same time."""
    outputs.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(outputs.with_name(f".{outputs.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise TutorialError(f"another ci/tutorial or ci/sweep is at work in {outputs}") from None
    try:
        yield
    finally:
        lock.release()


def prepare_kernels() -> None:
    """Let kernels be this interpreter, find clims_lib and show figures inside the notebooks."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # else a kernel of the home folder wins
    os.environ.pop("MPLBACKEND", None)
    let_idle_threads_sleep()
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else each kernel warns on Python 3.11+


def delete(outputs: Path) -> None:
    """Delete a profile's outputs, but never a folder that may hold anything else."""
    if not outputs.is_dir():
        return
    if not outputs.is_relative_to(ROOT / "outputs") and not (outputs / "metrics").is_dir():
        raise TutorialError(
            f"--fresh would delete {outputs}, which does not look like outputs of "
            "this tutorial; delete it yourself"
        )
    print(f"--fresh: deleting {outputs}")
    shutil.rmtree(outputs)
