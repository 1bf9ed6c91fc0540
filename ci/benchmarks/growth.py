"""How the tutorial's seconds grow with its data (x1, x2, x4, x8), and where they go in a full run.

    python ci/benchmarks/growth.py

Stages with a fixed number of steps (CLIP, CCT, affinities) do not grow and are left out of the
first part. The second part lists the stages of the last `ci/tutorial`, if there is one; some of
them run side by side.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pairs import RESULTS, ROOT, keep

from clims_lib import plots
from clims_lib.artifacts import atomic_path, read_manifest
from clims_lib.config import load_profile
from clims_lib.data import splits
from clims_lib.stages import cams, masks, measures, networks

FACTORS, BASE = (1, 2, 4, 8), 300


def grown(factor: int, folder: Path) -> dict:
    """Seconds of each stage with `factor` times as many train and val pictures."""
    count = BASE * factor
    profile = load_profile(
        "mini",
        [
            f"data.train={count}",
            f"data.val={count // 2}",
            "data.test=6",
            "data.labelled=20",
            f'data_root="{folder}/data{factor}"',
            f'outputs="{folder}/out{factor}"',
            "device=cpu",
            "cam.epochs=2",
            "inference.chosen_on=60",
            "crf.chosen_on=6",
        ],
    )
    work = {
        "draw": lambda: splits.make_data(profile),
        "read": lambda: [splits.read_split(profile, s, masks=True) for s in ("train", "val")],
        "train": lambda: networks.train_cam(profile, "cam"),
        "maps": lambda: cams.make_cams(profile, "cam", "train"),
        "threshold": lambda: masks.choose_threshold(profile, "cam_crf"),
        "CRF": lambda: masks.make_pseudo_masks(profile, "cam_crf", "train"),
        "measure": lambda: measures.measure(profile, "cam"),
    }
    row = {"what": f"x{factor}: {count} train pictures"}
    for name, stage in work.items():
        started = time.perf_counter()
        stage()
        row[f"{name}_s"] = time.perf_counter() - started
    total = sum(value for key, value in row.items() if key.endswith("_s"))
    return row | {"total_s": total, "ms_per_picture": 1000 * total / count}


def last_run(outputs: Path) -> list[dict]:
    """Seconds of every stage behind the last run's numbers, longest first; short ones together."""
    stages = Counter()  # a stage may have run twice, with other settings
    for path in outputs.glob("*/*/manifest.json"):
        seconds = read_manifest(path.parent)["seconds"]
        name = f"{path.parent.parent.name}/{path.parent.name.rpartition('-')[0]}"
        stages[name if seconds >= 3 else "stages under 3 s"] += seconds
    return [{"what": name, "total_s": seconds} for name, seconds in stages.most_common()]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        rows = [grown(factor, Path(folder)) for factor in FACTORS]
    sizes = [BASE * factor for factor in FACTORS]
    lines = {key[:-2]: (sizes, [row[key] for row in rows]) for key in rows[0] if key.endswith("_s")}
    figure = plots.curves(lines, "train pictures", "seconds")
    with atomic_path(RESULTS / "growth.png") as temporary:
        figure.savefig(temporary, format="png", dpi=90, bbox_inches="tight")
    keep("growth", rows + last_run(ROOT / "outputs" / "mini"), "python ci/benchmarks/growth.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
