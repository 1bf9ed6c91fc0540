"""CRF tuner: what each parameter of the dense CRF does to one picture's mask (notebook 04)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from clims_lib import metrics, plots, seeds
from clims_lib.config import Profile
from clims_lib.explore.cases import Case, Cases
from clims_lib.explore.html import cards, per_cent
from clims_lib.explore.panel import Panel, View, pickers, slider
from clims_lib.stages import maps
from clims_lib.stages.cams import make_cams
from clims_lib.stages.masks import choose_threshold, score
from clims_lib.stages.methods import CRF, row_of

LIVE_PIXELS = 2**15  # a CRF on more of them would fall behind a slider
Tune = Callable[..., tuple[Case, Tensor, Tensor]]  # case, mask before and after the CRF


def quick_refine(
    profile: Profile, image: Tensor, cams: Tensor, threshold: float, **changes: float
) -> Tensor:
    """The CRF's mask uint8 (H, W), labels 0..n, of normalised maps (n, H, W) of a picture uint8
    (3, H, W); `maps.refine` with some settings changed.

    Photographs go through it at a fraction of their size, ranges in pixels too.
    """
    step = math.ceil(math.sqrt(image[0].numel() / LIVE_PIXELS))
    for name in ("bilateral_sxy", "gaussian_sxy"):
        changes[name] = changes.get(name, getattr(profile.crf, name)) / step
    small = maps.refine(
        profile,
        image[None, :, ::step, ::step],
        cams[None, :, ::step, ::step],
        [threshold],
        **changes,
    )[0, 0]
    height, width = image.shape[-2:]
    return small.repeat_interleave(step, 0).repeat_interleave(step, 1)[:height, :width]


def read_maps(profile: Profile, folder: Path, case: Case, how: str) -> tuple[Tensor, Tensor]:
    """(labels uint8 (n + 1,) of a mask's numbers 0..n, normalised maps (n, H, W)) of a picture."""
    height, width = case.truth.shape
    classes, cams = maps.read_cam(
        folder / f"{case.name}.npz", (height, width), profile.inference.stride
    )
    labels = torch.cat([torch.zeros(1), classes]).to(torch.uint8)
    return labels, seeds.normalise_cam(cams, torch.ones(len(cams)), how)


def compare(case: Case, before: Tensor, after: Tensor) -> dict[str, float]:
    """mIoU of a picture's masks before and after, and IoU of the case's class, in [0, 1]."""
    numbers = {}
    for name, mask in (("before", before), ("after", after)):
        numbers[f"IoU {name}"] = float(
            metrics.picture_iou(case.truth[None], mask[None], case.label)
        )
        numbers[f"mIoU {name}"] = score(mask, case.truth)
    return numbers


def open_tuner(profile: Profile) -> tuple[Cases, float, Tune]:
    """(pictures, their method's choice of threshold, (case, settings) -> masks before, after)."""
    ours = row_of(profile.pseudo.method).method
    folder = make_cams(profile, ours, "val")
    choice, cases = choose_threshold(profile, ours + CRF), Cases(profile)

    @lru_cache(maxsize=64)
    def read(picture: int, klass: str) -> tuple[Case, Tensor, Tensor]:
        case = cases.case(picture, klass)
        return case, *read_maps(profile, folder, case, choice["how"])

    def tune(
        picture: int, klass: str, threshold: float, **settings: float
    ) -> tuple[Case, Tensor, Tensor]:
        case, labels, cams = read(picture, klass)
        before = seeds.cam_to_mask(cams, threshold)
        after = quick_refine(profile, case.image, cams, threshold, **settings)
        return case, labels[before.long()], labels[after.long()]

    return cases, choice["threshold"], tune


def crf_figure(profile: Profile) -> Figure:
    """What the tuner starts with: picture, mask before and after, truth, of a picture a class."""
    cases, threshold, tune = open_tuner(profile)
    rows, titles = [], []
    for klass in cases.classes[:6]:
        case, before, after = tune(cases.numbers(klass)[0], klass, threshold)
        numbers = compare(case, before, after)
        rows.append([plots.picture(case.image), *map(plots.coloured, (before, after, case.truth))])
        titles.append(
            "{}\nIoU {} to {}".format(
                klass, *(per_cent(numbers[f"IoU {name}"]) for name in ("before", "after"))
            )
        )
    columns = [list(column) for column in zip(*rows, strict=True)]
    return plots.grid(columns, ["picture", "before", "after", "truth"], titles)


def crf_tuner(profile: Profile) -> Panel:
    """Sliders of the CRF's parameters beside the masks of one val picture before and after it."""
    cases, threshold, tune = open_tuner(profile)
    usual = {name: getattr(profile.crf, name) for name in maps.CRF_SETTINGS}

    def look(
        klass: str, picture: int, threshold: float, opacity: float = 0.65, **settings: float
    ) -> View:
        case, before, after = tune(picture, klass, threshold, **settings)
        numbers = compare(case, before, after)
        shown = {"map's own mask": before, "after the CRF": after, "truth": case.truth}
        return View(
            {name: plots.overlay(case.image, mask, opacity) for name, mask in shown.items()},
            cards(
                {
                    "mIoU before": per_cent(numbers["mIoU before"]),
                    "mIoU after": per_cent(numbers["mIoU after"]),
                    f"IoU of {klass} before": per_cent(numbers["IoU before"]),
                    f"IoU of {klass} after": per_cent(numbers["IoU after"]),
                }
            ),
        )

    def scaled(
        name: str, title: str, tip: str, form: str = ".1f", low: float = 0.0
    ) -> widgets.FloatSlider:
        value = usual[name]
        return slider(title, value, low * value, 4 * value, value / 20, tip, form)

    controls = pickers(cases) | {
        "threshold": slider("threshold", threshold, 0.05, 0.95, 0.01, "the background's score"),
        "sharpness": scaled("sharpness", "sharpness", "how sure the map is taken to be"),
        "bilateral_weight": scaled(
            "bilateral_weight", "bilateral weight", "how much near pixels of like colour count"
        ),
        "gaussian_weight": scaled(
            "gaussian_weight",
            "Gaussian weight",
            "how much neighbours count, whatever their colour",
            ".2f",
        ),
        "bilateral_sxy": scaled(
            "bilateral_sxy", "bilateral range", "pixels: how far away is still near", low=0.1
        ),
        "bilateral_srgb": scaled(
            "bilateral_srgb",
            "colour tolerance",
            "how alike colours are that are tied",
            ".3f",
            low=0.1,
        ),
        "iterations": widgets.IntSlider(
            usual["iterations"],
            min=0,
            max=20,
            tooltip="rounds",
            description="iterations",
            continuous_update=True,
        ),
    }
    back = widgets.Button(
        description="back to the profile's values",
        layout={"width": "auto"},
        tooltip="all sliders as they were",
    )

    def reset(_: object) -> None:
        for name, value in {"threshold": threshold, **usual}.items():
            if name in controls:
                controls[name].value = value

    back.on_click(reset)
    return Panel("CRF tuner", controls, look, [back])
