"""mIoU over a folder of masks: ours against torchmetrics and against a plain NumPy bincount.

    python ci/benchmarks/miou.py [--count 400]

All three are given the same arrays for the first figure, and the same folders of PNGs for the
second, where reading is part of the work.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from pairs import keep, pair
from torchmetrics.classification import MulticlassJaccardIndex

from clims_lib.data.voc import read_mask, read_mask_files, write_mask
from clims_lib.metrics import confusion, miou

LABELS = 21


def invent(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Masks of VOC's size with a few labels each, and predictions that are mostly right."""
    rng, pairs = np.random.default_rng(0), []
    for _ in range(count):
        coarse = rng.choice(rng.integers(0, LABELS, 3), (12, 16))
        truth = coarse.repeat(32, 0).repeat(32, 1)[:375, :500].astype(np.uint8)
        wrong = np.roll(truth, 9, 1)
        truth[::25] = 255
        pairs.append((truth, wrong))
    return pairs


def plain(pairs) -> float:
    counts = np.zeros((LABELS, LABELS), np.int64)
    for truth, said in pairs:
        known = truth != 255
        index = LABELS * truth[known].astype(np.int64) + said[known]
        counts += np.bincount(index, minlength=LABELS**2).reshape(LABELS, LABELS)
    hits = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hits
    return float((hits[union > 0] / union[union > 0]).mean())


def torchmetrics_miou(pairs) -> float:
    """One update a picture, of their quickest class for this."""
    metric = MulticlassJaccardIndex(LABELS, ignore_index=255, average="none")
    for truth, said in pairs:
        metric.update(torch.from_numpy(said), torch.from_numpy(truth))
    return float(metric.compute().mean())


def ours(pairs) -> float:
    return miou(sum(confusion(t, s, LABELS) for t, s in pairs))


def read(truth: Path, said: Path):
    for path in sorted(truth.glob("*.png")):
        yield read_mask(path), read_mask(said / path.name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400)
    options = parser.parse_args(arguments)
    pairs, rows = invent(options.count), []
    assert abs(ours(pairs) - plain(pairs)) < 1e-12
    assert abs(ours(pairs) - torchmetrics_miou(pairs)) < 1e-6
    for name, peer, goal in (("torchmetrics", torchmetrics_miou, 3.0), ("NumPy", plain, None)):
        rows.append(
            {"what": f"mIoU of {options.count} masks in memory", "peer": name, "goal": goal}
            | pair(lambda: ours(pairs), lambda peer=peer: peer(pairs), 3)
        )
    with tempfile.TemporaryDirectory() as folder:
        truth, said = Path(folder) / "truth", Path(folder) / "said"
        for i, (t, s) in enumerate(pairs):
            write_mask(truth / f"{i:05d}.png", t)
            write_mask(said / f"{i:05d}.png", s)
        for name, peer, goal in (("torchmetrics", torchmetrics_miou, 3.0), ("NumPy", plain, None)):
            found = pair(
                lambda: ours(
                    zip(
                        read_mask_files(sorted(truth.iterdir())),
                        read_mask_files(sorted(said.iterdir())),
                        strict=True,
                    )
                ),
                lambda peer=peer: peer(read(truth, said)),
                3,
            )
            rows.append(
                {"what": f"mIoU of {options.count} pairs of PNGs", "peer": name, "goal": goal}
                | found
            )
    keep("miou", rows, f"python ci/benchmarks/miou.py --count {options.count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
