"""A sweep's grid file, its runs on disk and the table made from them: sweep.csv, one row a run.

Its columns: run, the grid's parameters, status, seconds, error, notebook, split, commit, then what
was measured on `split` as fractions: `clims.miou`, `clims.person`, `clims.railroad->train`, and of
the oracle check `margin.train`. A sweep is there to choose settings, so the split is val, not test;
a run's results.json has the others.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clims_lib import oracle
from clims_lib.artifacts import atomic_path, read_json
from clims_lib.config import did_you_mean
from clims_lib.results.tables import scores_of_row

RUN, RESULTS, FAILED = "run.json", "results.json", "failed.json"  # in a run's folder
ABOUT = ("status", "seconds", "error", "notebook", "split", "commit")


def read_grid(path: Path) -> tuple[str, list[str], dict[str, list]]:
    """Return a grid file's profile, its notebooks' numbers and {parameter: values}."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"grid file {path} does not exist") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    known = {"profile": "mini", "only": [], "grid": {}}
    for key, value in table.items():
        if key not in known:
            raise ValueError(f"{path}: unknown key {key}{did_you_mean(key, known)}")
        if type(value) is not type(known[key]):
            raise ValueError(f"{path}: {key} = {value!r}; ci/sweep --help shows the form")
    table = known | table
    axes = flat(table["grid"])
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{name} in the grid is a list of values, not {values!r}")
    if not axes or "outputs" in axes:
        raise ValueError(
            "the grid has a parameter or more, but not outputs: every run has its own folder"
        )
    return table["profile"], table["only"], axes


def flat(table: dict, prefix: str = "") -> dict:
    """{"clims": {"lr": [...]}} -> {"clims.lr": [...]}: TOML reads a dotted key as a table."""
    found = {}
    for key, value in table.items():
        name = prefix + key
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def status_of(folder: Path) -> str:
    """A run's status: "finished", "failed", or "missing" where it was not or not wholly run."""
    if (folder / RESULTS).is_file():
        return "finished"
    return "failed" if (folder / FAILED).is_file() else "missing"


def row_of(folder: Path) -> dict:
    """The table's row of a finished or failed run."""
    run, status = read_json(folder / RUN), status_of(folder)
    row = {"run": folder.name, **run["values"], "status": status}
    if status == "failed":
        return row | read_json(folder / FAILED)
    results = read_json(folder / RESULTS)
    about = {"seconds": results["seconds"], "split": run["split"], "commit": results["commit"]}
    return row | about | scores_of(results, run["split"])


def scores_of(results: dict, split: str) -> dict[str, float]:
    """{"method.measure": value} of everything in results.json that was measured on one split."""
    found = {}
    for row in results["rows"]:
        if row["split"] == split:
            scores = scores_of_row(row)
            found |= {f"{row['method']}.{name}": score for name, score in scores.items()}
    for row in results["zero_shot"]:
        if row["split"] == split:
            found |= {f"{row['model']}.accuracy.{name}": a for name, a in row["accuracy"].items()}
    margins = oracle.margins(results["oracle"])  # measured on val
    return found | {f"margin.{name}": margin for name, margin in margins.items()}


def write_table(path: Path, rows: Sequence[dict], parameters: Sequence[str]) -> None:
    """Write rows as CSV in one step; lists become JSON text, what a row lacks stays empty."""
    first = ["run", *parameters, *ABOUT]
    names = [*first, *sorted({name for row in rows for name in row} - set(first))]
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def write_parquet(table: Path) -> None:
    """Write a CSV table once more as Parquet beside it, where pandas and pyarrow are installed."""
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ImportError:
        return
    texts = dict.fromkeys(("run", "status", "error", "notebook", "split", "commit"), "str")
    with atomic_path(table.with_suffix(".parquet")) as temporary:
        frame = pandas.read_csv(table, dtype=texts, low_memory=False)
        frame.to_parquet(temporary, engine="pyarrow", index=False)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
