"""Runs the benchmarks one after the other and renders their README: `clims bench`."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from clims_lib.config import ROOT, did_you_mean

FOLDER = ROOT / "ci" / "benchmarks"
EVERYWHERE = ("crf", "clims_step", "cam_inference", "miou", "loading", "growth")
BIG = "--device cuda --crop 512"
ON_A_GPU = (
    ("clims_step", f"{BIG} --batch 16 --clip ViT-B/32"),
    ("clims_step", f"{BIG} --batch 16 --clip RN50"),
    ("cam_inference", f"{BIG} --count 32"),
    ("crf", "--device cuda --batch 32"),
)


def run(names: Sequence[str] = (), pictures: Path | None = None) -> None:
    """Run the benchmarks of these names, all when empty; pictures: photographs for the CRF's.

    Raises ValueError for an unknown name and RuntimeError naming the benchmark that failed.
    """
    for name in names:
        if name not in EVERYWHERE:
            raise ValueError(f"no benchmark {name!r}{did_you_mean(name, EVERYWHERE)}")
    todo = [(name, "") for name in EVERYWHERE]
    todo += ON_A_GPU if torch.cuda.is_available() else ()
    for name, options in todo:
        if not names or name in names:
            print(f"== {name} {options}", flush=True)
            words = ["--pictures", str(pictures.resolve())] if pictures and name == "crf" else []
            start(f"{name}.py", *options.split(), *words)
    start("render.py")


def start(script: str, *words: str) -> None:
    if subprocess.call([sys.executable, str(FOLDER / script), *words], cwd=ROOT):
        raise RuntimeError(f"{script} failed; what it said stands above")
