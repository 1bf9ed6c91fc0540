"""Puts the last run of ci/sample into data/results and the README: python ci/save_sample.py

With the hash of the code that it was measured with, as ci/results does for MiniWorld.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from everything import code_of_results  # noqa: E402
from update_readme import update_readme  # noqa: E402

from clims_lib.artifacts import read_json, write_json  # noqa: E402
from clims_lib.config import load_profile  # noqa: E402


def save_sample() -> Path:
    """Raises FileNotFoundError where no run is finished."""
    profile = load_profile("voc2012_sample")
    measured = read_json(profile.outputs / "results.json")
    path = ROOT / "data" / "results" / f"{profile.name}.json"
    write_json(path, measured | {"code": code_of_results()})
    update_readme()
    return path


if __name__ == "__main__":
    print(save_sample())
