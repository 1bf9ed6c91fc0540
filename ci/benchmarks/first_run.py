"""The first run of two versions of the tutorial, notebook by notebook, from what they printed.

    ci/tutorial 2>&1 | tee now.log        # in a clone without outputs/, and in one of the other
    python ci/benchmarks/first_run.py then.log now.log

Run both on the same idle machine, one after the other. Installing is not counted.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from pairs import keep


def read_log(path: Path) -> dict[str, int]:
    """Seconds of each notebook that a log of `ci/tutorial` tells of."""
    lines = path.read_text(encoding="utf-8", errors="replace")
    found = re.findall(r"(\d\d_\w+)\.ipynb: (\d+) s\b", lines)
    if not found:
        raise ValueError(f"{path} has no line like '00_setup_and_data.ipynb: 20 s'")
    return {name: int(seconds) for name, seconds in found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("then", type=Path)
    parser.add_argument("now", type=Path)
    options = parser.parse_args()
    then, now = read_log(options.then), read_log(options.now)
    rows = [{"what": name, "then_s": then.get(name), "now_s": now[name]} for name in now]
    total = {
        "what": "first run of all notebooks",
        "goal": 2.0,
        "then_s": sum(then.values()),
        "now_s": sum(now.values()),
    }
    rows.append(total | {"ratio": total["then_s"] / total["now_s"]})
    keep("first_run", rows, "python ci/benchmarks/first_run.py then.log now.log")
    return 0


if __name__ == "__main__":
    sys.exit(main())
