"""Loss explorer: a mask grows over one picture, and the loss terms say what they think of it.

Notebook 02 shows it. The mask is made from the true one, so this is for looking, not for training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from clims_lib import clip_model, losses, plots, prompts
from clims_lib.clip_model import CLIP
from clims_lib.config import Profile
from clims_lib.devices import device_of
from clims_lib.explore.cases import Case, Cases
from clims_lib.explore.html import bar_table, in_columns, shaded_table
from clims_lib.explore.panel import Panel, View, pickers, slider
from clims_lib.stages.clip import clip_texts, finetune_clip
from clims_lib.stages.criterion import loss_form, loss_weights

ASKED = {"otm": "is it in?", "btm": "is some left?", "cbs": "is ground in?", "reg": "how large?"}
Measure = Callable[[Case, Tensor], dict]


def question(term: str) -> str:
    """What a term asks, for a plot: "otm" -> "OTM: is it in?"."""
    return f"{term.upper()}: {ASKED.get(term, 'how much?')}"


def growing_mask(parts: Sequence[Tensor], t: float) -> Tensor:
    """float (H, W) in {0, 1}: from the left, part n joins while t goes from n to n + 1.

    parts: bool (H, W), sharing no pixel. Nothing has joined at 0, all of them at len(parts).
    """
    mask = torch.zeros(parts[0].shape)
    for n, part in enumerate(parts):
        columns = part.sum(0).cumsum(0) / part.sum().clamp(min=1)
        mask += part * (columns <= t - n + 1e-4)
    return mask


def parts_of(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """The object, what comes with it, and the rest: bool (H, W) each, together the picture."""
    home = case.home & ~case.thing
    return case.thing, home, ~(case.thing | home)


def describe_mask(case: Case, klass: str, t: float) -> str:
    """What `growing_mask` of `parts_of` holds at t, in words."""
    whole = max(0, math.ceil(round(t, 6)) - 1)  # parts that are there for sure
    names = [klass, case.home_name, "rest"]
    return " + ".join([*names[:whole], f"{100 * (t - whole):.0f} % of the {names[whole]}"])


def cut(model: CLIP, case: Case, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The picture in CLIP's units (1, 3, R, R) and the mask (1, 1, R, R), R CLIP's resolution."""
    size, device = model.visual.input_resolution, model.positional_embedding.device
    image = clip_model.resize_for_clip(case.image[None].to(device).float() / 255, size)
    small = torch.nn.functional.interpolate(
        mask[None, None].to(device), (size, size), mode="bilinear", align_corners=False
    )
    return clip_model.normalise_for_clip(image.clamp(0, 1)), small


def visible(image: Tensor) -> np.ndarray:
    """(3, R, R) in CLIP's units -> uint8 (R, R, 3)."""
    std, mean = (torch.tensor(v).view(3, 1, 1) for v in (clip_model.CLIP_STD, clip_model.CLIP_MEAN))
    return (255 * plots.picture(image.cpu() * std + mean)).round().astype(np.uint8)


def open_judge(profile: Profile) -> tuple[Measure, CLIP]:
    """((case, mask float (H, W)) -> what CLIMS makes of it, the finetuned CLIP).

    What: "terms" {"otm", ...: weighted}, "sum", "object", "rest" (their similarities with the class
    text) and "background" (a list, the object image's with each background text).
    """
    model = clip_model.load_clip(finetune_clip(profile) / "clip.pt", device_of(profile))
    texts, encode = clip_texts(profile, model), clip_model.image_encoder(model)
    weights, form = loss_weights(profile), loss_form(profile)
    every_class = torch.eye(len(profile.data.classes), device=device_of(profile))

    @torch.no_grad()
    def measure(case: Case, mask: Tensor) -> dict:
        (image, small), k = cut(model, case, mask), case.label - 1
        labels = every_class[k : k + 1]
        cams = small * labels[:, :, None, None]
        seen = losses.similarities(encode, image, cams, labels, *texts)
        total, terms = losses.clims_loss(*seen, cams, labels, weights=weights, **form)
        behind = seen[2][0, k]
        return {
            "terms": {n: weights.get(n, 0.0) * v.item() for n, v in terms.items()},
            "sum": total.item(),
            "object": seen[0][0, k].item(),
            "rest": seen[1][0, k].item(),
            "background": behind[~behind.isnan()].tolist(),
        }

    return measure, model


def grounds_of(profile: Profile, klass: str) -> list[str]:
    """The profile's background texts of a class."""
    table = prompts.parse_background(profile.losses.background)
    return table.get(klass, []) if isinstance(table, dict) else table


def loss_figure(profile: Profile) -> Figure:
    """One val picture while its mask grows: the mask, the object image, the rest image, the sum."""
    (measure, model), cases = open_judge(profile), Cases(profile)
    case = cases.case(cases.numbers(cases.first)[0], cases.first)
    rows: list[list[np.ndarray]] = [[], [], []]
    titles, parts = [], parts_of(case)
    for t, name in (
        (0.5, "half of it"),
        (1.0, cases.first),
        (1.5, f"half the {case.home_name}"),
        (2.0, f"and {case.home_name}"),
        (3.0, "everything"),
    ):
        mask = growing_mask(parts, t)
        found, (image, small) = measure(case, mask), cut(model, case, mask)
        shown = (
            plots.overlay(case.image, (mask * case.label).to(torch.uint8)),
            visible((image * small)[0]),
            visible((image * (1 - small))[0]),
        )
        for row, pixels in zip(rows, shown, strict=True):
            row.append(pixels)
        terms = " ".join(f"{name.upper()} {value:.0f}" for name, value in found["terms"].items())
        titles.append(f"{t:g}: {name}\nsum {found['sum']:.1f}\n{terms}")
    return plots.grid(rows, ["mask", "object image", "rest image"], titles)


def loss_explorer(profile: Profile) -> Panel:
    """Slide a mask from a part of the object over all of it and its ground to the whole picture."""
    (measure, model), cases = open_judge(profile), Cases(profile)

    @lru_cache(maxsize=64)
    def opened(picture: int, klass: str) -> tuple[Case, tuple[Tensor, Tensor, Tensor], float]:
        case = cases.case(picture, klass)
        parts = parts_of(case)
        ends = [measure(case, growing_mask(parts, t))["sum"] for t in (0, 1, 2, 3)]
        return case, parts, max(ends)  # one length for all bars of a picture

    def look(klass: str, picture: int, t: float) -> View:
        case, parts, most = opened(picture, klass)
        mask = growing_mask(parts, t)
        found, (image, small) = measure(case, mask), cut(model, case, mask)
        terms = {question(name): value for name, value in found["terms"].items()}
        said = {
            f"object image and “{klass}”": found["object"],
            f"rest image and “{klass}”": found["rest"],
        }
        for text, s in zip(grounds_of(profile, klass), found["background"], strict=True):
            said[f"object image and “{text}”"] = s
        painted = plots.overlay(case.image, (mask * case.label).to(torch.uint8))
        return View(
            {
                f"mask: {describe_mask(case, klass, t)}": painted,
                "object image, x · P": visible((image * small)[0]),
                "rest image, x · (1 − P)": visible((image * (1 - small))[0]),
            },
            in_columns(
                bar_table(terms | {"sum": found["sum"]}, most, "weighted terms of the loss"),
                shaded_table(
                    [[s] for s in said.values()],
                    list(said),
                    ["s"],
                    "cosine similarity of picture and text",
                ),
            ),
        )

    grow = slider(
        "mask", 0.5, 0.0, 3.0, 0.05, "to 1: the object, to 2: what comes with it, to 3: everything"
    )
    return Panel("Loss explorer", pickers(cases) | {"t": grow}, look)
