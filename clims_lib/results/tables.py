"""What was measured: one JSON file a notebook, gathered into results.json and text tables.

A row is {"method", "split", "seed", "threshold", "crf", "miou", "iou", "leak", "error", "seconds"},
in fractions; only the texts made here are in per cent. error: the mIoU's standard error over the
pictures (bootstrap.py).
"""

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from clims_lib.artifacts import read_json, rounded, write_json
from clims_lib.config import ROOT, Profile, did_you_mean
from clims_lib.results.text import text_table

LISTS = ("rows", "zero_shot", "oracle")  # of results.json
IDENTITY = {
    "rows": ("method", "split", "crf", "threshold", "seed"),
    "zero_shot": ("model", "split", "seed"),
    "oracle": ("class", "mask", "seed"),
}
VALUE = {"rows": "miou", "zero_shot": "accuracy", "oracle": "loss"}


def record(
    path: Path,
    *,
    profile: str,
    seed: int,
    seconds: float,
    device: str,
    rows: Iterable[dict] = (),
    zero_shot: Iterable[dict] = (),
    oracle: Iterable[dict] = (),
) -> dict:
    """Write what one notebook measured to `metrics/<notebook>.json` and return it.

    Raises ValueError for a row without its identity or with a score outside [0, 1].
    """
    oracle = [{"seed": seed} | row for row in oracle]
    measured = {
        "profile": profile,
        "seed": seed,
        "seconds": seconds,
        "device": device,
        "rows": list(rows),
        "zero_shot": list(zero_shot),
        "oracle": oracle,
    }
    measured = rounded(measured)
    _check(measured, path)
    write_json(path, measured)
    return measured


def gather_results(metrics_folder: Path) -> dict:
    """Return the rows of every metrics file in results.json's form, each measurement once.

    Raises ValueError when there is none, and when two files disagree on one measurement.
    """
    files = sorted(Path(metrics_folder).glob("*.json"))
    if not files:
        raise ValueError(f"nothing measured yet in {metrics_folder}: run the notebooks first")
    found: dict[str, dict] = {name: {} for name in LISTS}
    devices = set()
    for file in files:
        measured = read_json(file)
        _check(measured, file)
        devices.add(measured.get("device", "cpu"))
        for name in LISTS:
            for row in measured.get(name, []):
                identity = tuple(row.get(key) for key in IDENTITY[name])
                earlier, where = found[name].setdefault(identity, (row, file))
                if earlier[VALUE[name]] != row[VALUE[name]]:
                    raise ValueError(
                        f"{where.name} and {file.name} disagree on {identity}: one "
                        "of them is from other settings, run its notebook again"
                    )
    lists = {name: [row for row, _ in found[name].values()] for name in LISTS}
    return sort_results(lists) | {
        "environment": environment(", ".join(sorted(devices))),
        "commit": commit(),
    }


def sort_results(results: dict) -> dict:
    """Return the results with each list in the order of its identity, so that files compare."""

    def order(name: str) -> Callable[[dict], list[str]]:
        return lambda row: [str(row.get(key, "")) for key in IDENTITY[name]]

    return results | {name: sorted(results.get(name, []), key=order(name)) for name in LISTS}


def environment(device: str) -> dict:
    """Return where numbers come from: versions, cores and device."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "device": device,
    }


def commit() -> str | None:
    """Return the checkout's commit, or None outside a checkout."""
    folder = Path(__file__).parent
    try:
        call = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True
        )
    except FileNotFoundError:  # no git on this machine
        return None
    return call.stdout.strip() if call.returncode == 0 else None


def headline_of(rows: Iterable[dict]) -> str:
    """Return the split with the headline numbers: "test" where there are rows on it, else "val"."""
    return "test" if any(row["split"] == "test" for row in rows) else "val"


def scores_of_row(row: dict) -> dict[str, Any]:
    """A row's "miou", classes' IoU and leak rates by name, in fractions."""
    return {"miou": row["miou"]} | row.get("iou", {}) | (row.get("leak") or {})


def summary(rows: Iterable[dict], split: str = "") -> dict[str, dict[str, tuple]]:
    """Return {method: {measure: (mean, spread, seeds)}} in fractions for one split.

    split: by default the one with the headline numbers. Measures are "miou", each class of `iou`
    and each pair of `leak`; the spread is the sample standard deviation over seeds (0 for one).
    """
    rows = list(rows)
    split = split or headline_of(rows)
    values: dict[str, dict[str, list]] = {}
    for row in rows:
        if row["split"] == split:
            measures = values.setdefault(row["method"], {})
            for name, score in scores_of_row(row).items():
                if score is not None:
                    measures.setdefault(name, []).append(score)
    return {
        method: {name: mean_spread(scores) for name, scores in measures.items()}
        for method, measures in values.items()
    }


def mean_spread(values: list[float]) -> tuple[float, float, int]:
    """Return the mean, the sample standard deviation (0 for one value) and how many there are."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), spread, len(values)


def mean_per_cent(value: tuple | None) -> str:
    """Return "56.1", or "56.1 ± 0.5" where several seeds stand behind it, or "-" for nothing."""
    if value is None:
        return "-"
    mean, spread, seeds = value
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if seeds > 1 else "")


def results_table(
    rows: Iterable[dict],
    committed: Iterable[dict] = (),
    split: str = "",
    measures: Iterable[str] = ("miou", "person"),
) -> str:
    """Return a text table in per cent, one line a method, the committed numbers beside ours.

    Leak rates found in the rows are added to `measures`.
    """
    rows, committed = list(rows), list(committed)
    split = split or headline_of(rows + committed)
    ours, theirs = summary(rows, split), summary(committed, split)
    leaks = {pair for row in rows + committed for pair in row.get("leak") or {}}
    measures = [*measures, *sorted(leaks)]
    header = ["method"]
    for name in measures:
        header += [name, "committed"] if committed else [name]
    lines = [header]
    for method in [*ours, *(m for m in theirs if m not in ours)]:
        line = [method]
        for name in measures:
            line.append(mean_per_cent(ours.get(method, {}).get(name)))
            if committed:
                line.append(mean_per_cent(theirs.get(method, {}).get(name)))
        lines.append(line)
    return text_table(lines, right=range(1, len(header)))


def beyond_spread(
    rows: Iterable[dict],
    committed: Iterable[dict],
    split: str = "",
    spreads: float = 4.0,
    floor: float = 0.02,
) -> list[str]:
    """Return a sentence for each mIoU further from the committed mean than seeds explain.

    Allowed is `spreads` times the committed seeds' spread, and never less than `floor`, since
    three seeds say little about a spread.
    """
    rows = list(rows)
    split = split or headline_of(rows)
    ours, theirs = summary(rows, split), summary(committed, split)
    sentences = []
    for method in ours.keys() & theirs.keys():
        mean, spread, _ = theirs[method]["miou"]
        difference = ours[method]["miou"][0] - mean
        allowed = max(spreads * spread, floor)
        if abs(difference) > allowed:
            sentences.append(
                f"{method}: mIoU is {100 * difference:+.1f} points from the committed "
                f"mean {100 * mean:.1f}, more than the {100 * allowed:.1f} allowed"
            )
    return sorted(sentences)


def accuracies_beyond_spread(
    zero_shot: Iterable[dict],
    committed: Iterable[dict],
    split: str = "",
    spreads: float = 4.0,
    floor: float = 0.1,
) -> list[str]:
    """Return a sentence for each class whose zero-shot accuracy is further from the committed
    mean than seeds explain; `floor` allows for the few dozen pictures behind each."""
    zero_shot = list(zero_shot)
    split = split or headline_of(zero_shot)
    committed = [entry for entry in committed if entry["split"] == split]
    sentences = []
    for entry in zero_shot:
        seeds = [e["accuracy"] for e in committed if e["model"] == entry["model"]]
        for name, accuracy in entry["accuracy"].items() if entry["split"] == split else ():
            known = [s[name] for s in seeds if s.get(name) is not None]
            if not known or accuracy is None:
                continue
            mean, spread, _ = mean_spread(known)
            if abs(accuracy - mean) > max(spreads * spread, floor):
                sentences.append(
                    f"{entry['model']}: accuracy on {name} is {100 * accuracy:.1f}, "
                    f"the committed mean {100 * mean:.1f}"
                )
    return sorted(sentences)


def read_committed(profile: Profile, what: str = "rows") -> list[dict]:
    """Return the committed "rows", "zero_shot" or "oracle" of several seeds, [] where none are;
    of "claims", each one's standard error over the test pictures.

    They lie in data/results/<profile's name>.json and are made by `ci/results`.
    """
    known = (*LISTS, "claims")
    if what not in known:
        raise ValueError(f"no results called {what!r}{did_you_mean(what, known)}")
    return committed_results(profile).get(what, [])


def committed_results(profile: Profile) -> dict:
    """The whole committed table, {} where there is none."""
    path = ROOT / "data" / "results" / f"{profile.name}.json"
    return read_json(path) if path.is_file() else {}


def _check(measured: dict, path: Path) -> None:
    for name in LISTS:
        for row in measured.get(name, []):
            missing = [
                k
                for k in (*IDENTITY[name], VALUE[name])
                if k not in row and k not in ("crf", "threshold")
            ]
            if missing:
                raise ValueError(f"{Path(path).name}: {name} {row} lacks {', '.join(missing)}")
    for row in measured.get("rows", []):
        for measure, score in scores_of_row(row).items():
            if score is not None and not 0 <= score <= 1:
                raise ValueError(
                    f"{Path(path).name}: {row['method']} {measure} = {score}, but "
                    "scores are fractions from 0 to 1, not per cent"
                )
