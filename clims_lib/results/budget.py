"""What `clims plan` says: what is there, what is to come, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from clims_lib.artifacts import CHECKPOINT
from clims_lib.config import Profile
from clims_lib.costs import ARITHMETIC, GIB, GPU, GPUS, LAUNCH, TRAFFIC, Cost
from clims_lib.data.download import SOURCES, space_needed
from clims_lib.results.plan import (
    CRF_SECONDS,
    DRAWN,
    OUTLINE_SECONDS,
    Planned,
    pictures_of,
    planned,
)
from clims_lib.results.text import text_table
from clims_lib.stage import NotMade, looking_only

BESIDES = 1.5  # GiB: CUDA itself and cuDNN's work space, which no tensor holds


class Budgeted(NamedTuple):
    """A planned stage, its state, what a step costs (None: not counted), and seconds left."""

    stage: Planned
    state: str
    cost: Cost | None
    seconds: float


def state_of(profile: Profile, stage: Planned) -> str:
    """Whether it is there: "finished", "step 1,200" or "300 files" where it was interrupted, "1 of
    2" of its folders, or "absent"."""
    if not ((profile.outputs / "splits").is_dir() and (profile.data_root / "JPEGImages").is_dir()):
        return "absent"  # and to look would mean to read all pictures, or to draw them
    finished, going = 0, ""
    for folder, make in stage.makes:
        try:
            with looking_only():
                make()
            finished += 1
        except NotMade as error:
            where = f"{error.folder.parent.name}/{error.folder.name.rpartition('-')[0]}"
            going = going or (_how_far(error.folder) if where == folder else "")
        except (OSError, ValueError):  # what it needs is not there either
            pass
    if finished == len(stage.makes):
        return "finished"
    return going or (f"{finished} of {len(stage.makes)}" if finished else "absent")


def _how_far(folder: Path) -> str:
    partial = folder.with_name(f"{folder.name}.partial")
    if (partial / CHECKPOINT).is_file():
        state = torch.load(partial / CHECKPOINT, map_location="cpu", weights_only=True, mmap=True)
        return f"step {state['step']:,}"
    files = sum(1 for _ in partial.glob("*.npz")) + sum(1 for _ in partial.glob("*.png"))
    return f"{files:,} files" if files else ""


def budget(profile: Profile, gpu: GPU, costs: bool = True) -> list[Budgeted]:
    """All stages; of those that are finished, and without `costs` of all, no step is counted."""
    found = []
    for stage in planned(profile):
        state = state_of(profile, stage)
        todo = costs and state != "finished"
        cost = stage.cost() if stage.cost and todo else None
        done = int(state[5:].replace(",", "")) if state.startswith("step ") else 0
        seconds = (stage.steps - done) * cost.seconds(gpu) if cost else 0.0
        found.append(Budgeted(stage, state, cost, (seconds + stage.seconds) * todo))
    return found


def to_write(rows: Sequence[Budgeted]) -> float:
    """Bytes that the stages will still write."""
    return sum(row.stage.disk for row in rows if row.state != "finished")


def data_bytes(profile: Profile) -> float:
    """Bytes of the data set and the downloaded weights that are not there yet."""
    if profile.data.source == "miniworld":
        there = (profile.data_root / "JPEGImages").is_dir()
        count = pictures_of(profile)
        return 0 if there else DRAWN * (count["train"] + count["val"] + count["test"])
    sources = dict(SOURCES)
    if (profile.data_root / "JPEGImages").is_dir():
        sources = {name: s for name, s in SOURCES.items() if name not in ("voc", "sbd")}
    folder = profile.data_root.parent if "voc" in sources else profile.weights.parent
    return space_needed(folder, sources)[1] * 1e6 * needs_downloads(profile)


def needs_downloads(profile: Profile) -> bool:
    """Whether it uses what `clims download` brings."""
    return profile.cam.weights == "imagenet" or profile.clip_checkpoint in SOURCES


def plan_table(profile: Profile, gpu: GPU, rows: Sequence[Budgeted]) -> str:
    """What is there, what is to come, and what the figures are estimates from."""
    lines = [["stage", "there", "steps", "TFLOP", "GPU GiB", "hours", "disk GB", "needs"]]
    data = data_bytes(profile)
    lines.append(
        ["data, weights", "absent" if data else "there", *[""] * 4, f"{data / 1e9:.1f}", ""]
    )
    for stage, state, cost, left in rows:
        steps = f"{stage.steps:,}" if stage.steps else ""
        counted = [f"{cost.flops / 1e12:.2f}", f"{cost.peak / GIB:.1f}"] if cost else ["", ""]
        hours, disk = f"{left / 3600:.2f}" if left else "", f"{stage.disk / 1e9:.1f}"
        lines.append([stage.name, state, steps, *counted, hours, disk, stage.needs])
    peak, hours = most_memory(rows), f"{sum(row.seconds for row in rows) / 3600:.2f}"
    disk = f"{(to_write(rows) + data) / 1e9:.1f}"
    lines.append(["still to come", "", "", "", f"{peak:.1f}", hours, disk, ""])
    table = text_table(lines, right=range(2, 7))
    return "\n".join([f"{profile.name}, one {gpu.name}", "", table, "", *_notes(gpu, peak)])


def _notes(gpu: GPU, peak: float) -> list[str]:
    fits = "fits" if peak + BESIDES < gpu.memory else "does NOT fit: -p compute.accumulate=2"
    rate, flow = f"{ARITHMETIC:.0%} of {gpu.teraflops:g}", f"{TRAFFIC:.0%} of {gpu.bandwidth:,g}"
    return [
        "Hours are estimates, not measured. Every operation of a step of the real networks,",
        "at their real sizes, is counted on fake tensors and lasts as long as the slowest of: its",
        f"FLOPs (torch.utils.flop_counter) at {rate} TFLOP/s in bfloat16; its bytes at {flow}",
        f"GB/s; {LAUNCH * 1e6:g} us. Not counted: reading pictures.",
        f"On the CPU, timed on one core: a CRF, {CRF_SECONDS} s a photograph and threshold; the "
        f"outlines of CCT's cut-out, {OUTLINE_SECONDS} s a weak picture.",
        "TFLOP: of a step. GPU GiB: the most that a step's tensors hold at once: parameters,",
        "gradients, the optimiser's state, activations, batch. Not CUDA itself nor cuDNN's work",
        f"space, about {BESIDES:g} GiB more. {gpu.name}: {gpu.memory:g} GiB, which {fits}.",
        "Disk: finished stages; the checkpoint of a network at work, at most 1 GB, comes on top.",
    ]


def most_memory(rows: Sequence[Budgeted]) -> float:
    """GiB of the largest step."""
    return max((row.cost.peak for row in rows if row.cost), default=0) / GIB


def this_gpu() -> str:
    """The name in GPUS of the card that is here; an A100 stands for others, and for none."""
    name = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    return next((known for known in GPUS if known.lower() in name.lower()), "A100")
