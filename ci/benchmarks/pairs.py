"""Timing ours and a peer in turns, in one process and one run, and keeping what came out.

Machines are noisy and drift; a ratio of two calls that stand next to each other drifts much less.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from clims_lib.artifacts import write_json  # noqa: E402
from clims_lib.devices import cores  # noqa: E402

RESULTS = Path(__file__).parent / "results"


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call, with everything that a GPU still has to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def pair(ours: Callable[[], object], peer: Callable[[], object], rounds: int = 5) -> dict:
    """Time both in turns after one warm-up each: medians, and the median of the rounds' ratios."""
    ours(), peer()
    times = [(seconds(ours), seconds(peer)) for _ in range(rounds)]
    ratios = sorted(b / a for a, b in times)
    return {
        "ours_s": statistics.median(a for a, _ in times),
        "peer_s": statistics.median(b for _, b in times),
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[0],
        "ratio_high": ratios[-1],
        "rounds": rounds,
    }


def keep(name: str, rows: list[dict], command: str) -> None:
    """Print the rows and write them to results/<name>.json with the machine they are from."""
    where = {
        "cores": cores(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    rows = [
        {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in r.items()} for r in rows
    ]
    write_json(RESULTS / f"{name}.json", {"command": command, "environment": where, "rows": rows})
    for row in rows:
        print(json.dumps(row))
