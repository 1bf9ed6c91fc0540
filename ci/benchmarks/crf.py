"""Dense CRF against pydensecrf2 (C++, one thread) on real or invented pictures; growth with size.

    python ci/benchmarks/crf.py [--pictures FOLDER] [--count 100] [--device cuda --batch 32]

FOLDER is in VOC's layout. Without one, MiniWorld's pictures, enlarged, take their place. The peer
runs on the CPU and takes a batch's pictures one by one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pydensecrf.densecrf as peer
import torch
import torch.nn.functional as F
from pairs import RESULTS, keep, pair, seconds

from clims_lib.artifacts import atomic_path
from clims_lib.config import load_profile
from clims_lib.crf import dense_crf
from clims_lib.data.splits import read_split
from clims_lib.data.voc import VOCFolder

USUAL = {
    "gaussian_weight": 3.0,
    "gaussian_sxy": 3.0,
    "bilateral_weight": 10.0,
    "bilateral_sxy": 80.0,
    "bilateral_srgb": 13 / 255,
    "iterations": 10,
}
GOALS = {"cpu": 1.5, "cuda": 30.0}
SMALL = USUAL | {"bilateral_sxy": 20.0, "gaussian_sxy": 1.5}  # for pictures of 64 pixels


def ours(unary: torch.Tensor, image: torch.Tensor, settings: dict) -> torch.Tensor:
    """Labels (B, H, W) of energies (B, L, H, W) and pictures uint8 (B, 3, H, W)."""
    return dense_crf(unary, image / 255, exact=False, **settings).argmax(1)


def theirs(unary: torch.Tensor, image: torch.Tensor, settings: dict) -> torch.Tensor:
    labels, height, width = unary.shape
    crf = peer.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(labels, -1).numpy()))
    crf.addPairwiseGaussian(sxy=settings["gaussian_sxy"], compat=settings["gaussian_weight"])
    crf.addPairwiseBilateral(
        sxy=settings["bilateral_sxy"],
        srgb=255 * settings["bilateral_srgb"],
        rgbim=np.ascontiguousarray(image.permute(1, 2, 0).numpy()),
        compat=settings["bilateral_weight"],
    )
    q = np.array(crf.inference(settings["iterations"]))
    return torch.from_numpy(q.reshape(labels, height, width).argmax(0))


def soft_unary(mask: torch.Tensor, labels: int, generator: torch.Generator) -> torch.Tensor:
    """Energies like those of a network: the truth, blurred to a map's coarseness, and noise."""
    truth = mask.long().masked_fill(mask == 255, 0)
    one_hot = F.one_hot(truth, labels).permute(2, 0, 1).float()[None]
    small = F.interpolate(one_hot, scale_factor=1 / 16, mode="area")
    small = 4 * small + torch.randn(small.shape, generator=generator)
    return -F.interpolate(small, mask.shape, mode="bilinear")[0].log_softmax(0)


def agreement(pictures, settings: dict, labels: int) -> float:
    """Share of pixels with the same label in all of the pictures."""
    same = total = 0
    g = torch.Generator().manual_seed(0)
    for image, mask in pictures:
        unary = soft_unary(mask, labels, g)
        found = ours(unary[None], image[None], settings)[0]
        same += int((found == theirs(unary, image, settings)).sum())
        total += mask.numel()
    return same / total


def equal_labels(real, drawn, photographs: bool) -> list[dict]:
    rows = []
    for name, some, settings, labels in (
        ("photographs" if photographs else "enlarged MiniWorld", real, USUAL, 21),
        ("MiniWorld", drawn, SMALL, 7),
    ):
        rows.append(
            {
                "what": f"equal labels, {len(some)} pictures: {name}",
                "peer": "pydensecrf2",
                "share": agreement(some, settings, labels),
                "goal": 0.995,
            }
        )
    return rows


def memory(name: str) -> int:
    """Bytes of this process that Linux reports: VmRSS now, VmHWM at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition(f"{name}:")[2].split()[0])


def grown(image: torch.Tensor, factor: float, labels: int) -> dict:
    """Seconds and memory at one size, the kernels' scales growing with the picture."""
    height, width = int(375 * factor), int(500 * factor)
    x = F.interpolate(image[None].float(), (height, width), mode="bilinear").byte()
    settings = USUAL | {"bilateral_sxy": 80 * factor, "gaussian_sxy": 3 * factor}
    empty = torch.zeros(height, width, dtype=torch.uint8)
    unary = soft_unary(empty, labels, torch.Generator().manual_seed(0))[None]
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    ours(unary, x, settings)
    peak = memory("VmHWM") - before
    took = min(seconds(lambda: ours(unary, x, settings)) for _ in range(3))
    return {
        "what": f"growth, {width} x {height}, {labels} labels",
        "ours_s": took,
        "ns_per_pixel": 1e9 * took / (height * width),
        "peak_MiB": peak / 2**20,
        "bytes_per_pixel": peak / (height * width),
    }


def growth(image: torch.Tensor) -> list[dict]:
    """From 250 x 187 to 2000 x 1500 pixels and from 5 to 40 labels, each in a fresh process."""
    sizes = [(factor, labels) for labels in (5, 20) for factor in (0.5, 1, 2, 4)]
    tasks = [(image, *size) for size in [*sizes, (1, 10), (1, 40)]]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:
        rows = fresh.starmap(grown, tasks, chunksize=1)
    found = {size: row for size, row in zip(sizes, rows, strict=False)}
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for axis, key, name in zip(axes, ("ours_s", "peak_MiB"), ("seconds", "MiB"), strict=True):
        for labels, marker in ((5, "o"), (20, "s")):
            line = [(187500 * f**2 / 1e6, row[key]) for (f, n), row in found.items() if n == labels]
            axis.plot(*zip(*line, strict=True), marker=marker, label=f"{labels} labels")
        axis.set(xlabel="pixels (millions)", ylabel=name)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    with atomic_path(RESULTS / "crf_cpu.png") as temporary:
        figure.savefig(temporary, format="png", dpi=90)
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args(arguments)
    images, _, masks = read_split(load_profile("mini"), "val", masks=True)
    drawn = list(zip(images[: options.count], masks[: options.count], strict=True))
    if options.pictures:
        folder = VOCFolder(options.pictures, "val")
        real = [(folder[i].image, folder[i].mask) for i in range(min(options.count, len(folder)))]
    else:
        larger = F.interpolate(images[: options.count].float(), (375, 500), mode="bilinear")
        wide = F.interpolate(masks[: options.count, None].float(), (375, 500), mode="nearest")
        real = list(zip(larger.byte(), wide[:, 0].byte(), strict=True))

    rows, g = [], torch.Generator().manual_seed(0)
    image, mask = max(real, key=lambda p: p[1].numel())
    for labels in (21, 3):
        unary = soft_unary(mask.clamp(max=labels - 1), labels, g)
        # Rolled copies: other pictures of one size, so that every picture has a lattice of its own.
        shifts = range(0, 17 * options.batch, 17)
        unaries = torch.stack([unary.roll(s, -1) for s in shifts])
        images = torch.stack([image.roll(s, -1) for s in shifts])
        there = unaries.to(options.device), images.to(options.device)
        found = pair(
            lambda there=there: ours(*there, USUAL),
            lambda u=unaries, x=images: [theirs(u[i], x[i], USUAL) for i in range(len(u))],
        )
        height, width = mask.shape
        rows.append(
            {
                "what": f"CRF, {options.batch} x {width} x {height}, {labels} labels, "
                f"10 rounds, {options.device}",
                "peer": "pydensecrf2",
                "goal": GOALS[options.device] if labels == 21 else None,
            }
            | found
        )
    if options.device == "cpu":
        rows += equal_labels(real, drawn, bool(options.pictures)) + growth(image)
    given = " ".join(arguments or sys.argv[1:]).replace(str(options.pictures), "FOLDER")
    keep(f"crf_{options.device}", rows, f"python ci/benchmarks/crf.py {given}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
