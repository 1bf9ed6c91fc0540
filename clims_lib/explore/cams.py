"""CAM explorer: any method's map, its mask at any threshold, and what is wrong with it.

Notebooks 05 and 06 show it. Maps and masks come from the stages' folders and are read once each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from clims_lib import metrics, plots, seeds
from clims_lib.config import Profile, did_you_mean
from clims_lib.data.voc import read_mask
from clims_lib.explore.cases import Case, Cases
from clims_lib.explore.crf import quick_refine, read_maps
from clims_lib.explore.html import cards, per_cent
from clims_lib.explore.panel import Panel, View, pickers, slider
from clims_lib.labels import IGNORE
from clims_lib.stages.cams import make_cams
from clims_lib.stages.clip import runnable
from clims_lib.stages.masks import choose_threshold
from clims_lib.stages.methods import CRF, row_of, trainers
from clims_lib.stages.segmentations import make_segmentations


@dataclass(frozen=True)
class MethodOutput:
    """What a method left on disk: a folder of maps with the choice of threshold, or of masks."""

    folder: Path
    use_crf: bool = False
    how: str = ""
    threshold: float | None = None  # None: these are masks


def shown_methods(profile: Profile) -> dict[str, str]:
    """{title: row} of what can run here; the last one is CCT, which has no maps."""
    ours = profile.pseudo.method
    found = {
        "CAM": "cam",
        "PuzzleCAM": "puzzle_cam",
        "CLIMS": "clims",
        "CRF": ours + CRF,
        "CCT": f"cct_{row_of(ours).method}",
    }
    return {title: name for title, name in found.items() if runnable(profile, [name])}


def open_output(profile: Profile, title: str, split: str = "val") -> MethodOutput:
    """Where a method's maps or masks of a split are; made now when they are not there yet.

    Raises ValueError for a title that is not among `shown_methods`.
    """
    known = shown_methods(profile)
    if title not in known:
        raise ValueError(f"no method {title!r} here{did_you_mean(title, known)}")
    name = known[title]
    if name in trainers(profile):
        return MethodOutput(make_segmentations(profile, name, split))
    row = row_of(name)
    folder = make_cams(profile, row.maps, split)
    return MethodOutput(folder, row.crf, **choose_threshold(profile, name))


def judge(case: Case, mask: Tensor) -> dict[str, float]:
    """IoU, precision, recall and leak rate of the case's class in a mask uint8 (H, W), in [0, 1].

    The leak rate is the share of `case.home` that is labelled as the class. NaN where the mask or
    the picture has none of what a number is a share of.
    """
    known = case.truth != IGNORE
    found, real = (mask == case.label) & known, case.thing
    hits = (found & real).sum().double()
    leaked, home = metrics.leak_rate(mask, case.home.to(torch.uint8), 1, case.label)
    iou = metrics.picture_iou(case.truth[None], mask[None], case.label)
    return {
        "IoU": float(iou),
        "precision": float(hits / found.sum()),
        "recall": float(hits / real.sum()),
        "leak": leaked / home if home else float("nan"),
    }


def draw(case: Case, cam: Tensor | None, mask: Tensor, opacity: float) -> list[np.ndarray]:
    """[map, mask, truth] laid over the picture, uint8 (H, W, 3) each; without a map the picture."""
    plain = plots.picture(case.image)
    first = plain if cam is None else (255 * plots.map_over(case.image, cam, opacity))
    masks = [plots.overlay(case.image, m, opacity) for m in (mask, case.truth)]
    return [first.astype(np.uint8), *masks]


Segment = Callable[[int, str, str, float], tuple[Case, Tensor | None, Tensor]]


def open_masks(profile: Profile, cases: Cases, sources: dict[str, MethodOutput]) -> Segment:
    """(picture, class, method, threshold) -> (case, the class's map (H, W), mask uint8 (H, W))."""
    read_case = lru_cache(maxsize=256)(cases.case)

    @lru_cache(maxsize=256)
    def read(picture: int, klass: str, title: str) -> tuple[Tensor, Tensor]:
        return read_maps(
            profile, sources[title].folder, read_case(picture, klass), sources[title].how
        )

    @lru_cache(maxsize=256)
    def segment(
        picture: int, klass: str, title: str, threshold: float
    ) -> tuple[Case, Tensor | None, Tensor]:
        case, source = read_case(picture, klass), sources[title]
        if source.threshold is None:
            return case, None, torch.as_tensor(read_mask(source.folder / f"{case.name}.png"))
        labels, cams = read(picture, klass, title)
        mask = (
            quick_refine(profile, case.image, cams, threshold)
            if source.use_crf
            else seeds.cam_to_mask(cams, threshold)
        )
        return case, cams[labels[1:] == case.label][0], labels[mask.long()]

    return segment


def cam_figure(profile: Profile, methods: Sequence[str] = ()) -> Figure:
    """Every method's map of one val picture, and its masks below, at and over its threshold."""
    sources = {title: open_output(profile, title) for title in methods or shown_methods(profile)}
    rows: list[list[np.ndarray]] = [[], [], [], []]
    cases, titles = Cases(profile), []
    segment, klass = open_masks(profile, cases, sources), cases.first
    picture = cases.numbers(klass)[0]
    for title, source in sources.items():
        own = source.threshold or 0.0
        for row, threshold in zip(rows[1:], (own / 2, own, (1 + own) / 2), strict=True):
            case, cam, mask = segment(picture, klass, title, threshold)
            cell, shown, truth = draw(case, cam, mask, 0.65)
            row.append(shown)
        rows[0].append(cell)
        numbers = judge(case, segment(picture, klass, title, own)[2])
        titles.append(
            f"{title}{f' at {own:.2f}' if own else ''}\nIoU {per_cent(numbers['IoU'])}, "
            f"leak {per_cent(numbers['leak'])}"
        )
    for row, last in zip(rows, [plots.picture(case.image), truth, truth, truth], strict=True):
        row.append(last)
    names = [f"map of {klass}", "low threshold", "its own", "high threshold"]
    return plots.grid(rows, names, [*titles, "picture, truth"])


def cam_explorer(profile: Profile, methods: Sequence[str] = ()) -> Panel:
    """Pick a class, a picture and a method; slide the threshold; read IoU and leak rate.

    methods: titles of `shown_methods`, by default all. Each starts at its threshold from train.
    """
    sources = {title: open_output(profile, title) for title in methods or shown_methods(profile)}
    cases = Cases(profile)
    segment = open_masks(profile, cases, sources)
    method = widgets.Dropdown(
        options=list(sources),
        description="method",
        tooltip="each starts at its own threshold from train",
    )
    threshold = slider(
        "threshold",
        sources[method.value].threshold or 0.5,
        0.0,
        1.0,
        0.01,
        "the background's score; CCT has none",
    )

    def follow(change: dict) -> None:
        own = sources[change["new"]].threshold
        threshold.disabled, threshold.value = own is None, own or threshold.value

    def look(klass: str, picture: int, method: str, threshold: float, opacity: float) -> View:
        case, cam, mask = segment(picture, klass, method, threshold)
        numbers, own = judge(case, mask), sources[method].threshold
        titles = (f"map of {klass}" if own else "picture", f"mask of {method}", "truth")
        note = (
            f"{method}'s own threshold, chosen on train: {own:.2f}"
            if own
            else f"{method} is told no labels and has neither maps nor a threshold."
        )
        return View(
            dict(zip(titles, draw(case, cam, mask, opacity), strict=True)),
            cards(
                {
                    f"IoU of {klass}": per_cent(numbers["IoU"]),
                    "precision": per_cent(numbers["precision"]),
                    "recall": per_cent(numbers["recall"]),
                    f"leak into {case.home_name}": per_cent(numbers["leak"]),
                },
                note,
            ),
        )

    method.observe(follow, "value")
    return Panel(
        "CAM explorer",
        pickers(cases)
        | {
            "method": method,
            "threshold": threshold,
            "opacity": slider("opacity", 0.65, 0.0, 1.0, 0.05, "of map and masks over the picture"),
        },
        look,
    )
