"""Prompt lab: what CLIP says to texts of your own, region by region (notebook 02)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from clims_lib import clip_model, losses, plots, prompts
from clims_lib.clip_model import CLIP
from clims_lib.config import Profile
from clims_lib.devices import device_of
from clims_lib.explore.cases import Case, Cases
from clims_lib.explore.html import shaded_table
from clims_lib.explore.losses import cut, grounds_of, visible
from clims_lib.explore.panel import Panel, View, pickers
from clims_lib.stages.clip import finetune_clip


def regions_of(model: CLIP, case: Case) -> dict[str, Tensor]:
    """What CLIP is shown of a picture: {name: (1, 3, R, R) in CLIP's units}."""
    thing, home = case.thing.float(), case.home.float()
    masks = {
        "whole picture": torch.ones(thing.shape),
        "object": thing,
        "rest": 1 - thing,
        case.home_name: home,
    }
    return {name: torch.mul(*cut(model, case, mask)) for name, mask in masks.items()}


def parse_texts(klass: str, background: str, template: str) -> tuple[list[str], list[str]]:
    """([class, background, ...], the same inside the template) of what somebody typed.

    background: texts with commas between them. Raises ValueError that says what to type.
    """
    behind = [text.strip() for text in background.split(",") if text.strip()]
    if not klass.strip():
        raise ValueError("The class text is empty: type what the object is called, e.g. train.")
    if not behind:
        raise ValueError(
            "There is no background text: type some with commas between them, "
            "e.g. railroad, railway."
        )
    if "{}" not in template or set("{}") & set(template.replace("{}", "", 1)):
        raise ValueError("The template needs one {} where the class goes, e.g. a photo of {}.")
    nouns = [klass.strip(), *behind]
    return nouns, prompts.class_texts(nouns, template)


def ask(regions: Tensor, texts: Tensor, threshold: float) -> list[list[float]]:
    """What CLIP says: one list for each of R regions (R, D), unit vectors like texts (1 + L, D).

    A list holds the similarities with the class text and L background texts, then both published
    forms of L_CBS if the region were the mask: the mean over texts, and the sum of the
    similarities above the threshold.
    """
    one, rows = torch.ones(1, 1, device=texts.device), []
    for seen in regions @ texts.T:
        forms = [losses.cbs_loss(seen[None, None, 1:], one, t).item() for t in (None, threshold)]
        rows.append([*seen.tolist(), *forms])
    return rows


def open_lab(profile: Profile) -> tuple[Cases, Callable, Callable]:
    """(pictures; (picture, class) -> (case, regions, their features); texts -> features)."""
    model = clip_model.load_clip(finetune_clip(profile) / "clip.pt", device_of(profile))
    cases, encode = Cases(profile), clip_model.image_encoder(model)

    @lru_cache(maxsize=64)
    @torch.no_grad()
    def see(picture: int, klass: str) -> tuple[Case, dict[str, Tensor], Tensor]:
        case = cases.case(picture, klass)
        regions = regions_of(model, case)
        return case, regions, encode(torch.cat(list(regions.values())))

    @lru_cache(maxsize=4096)
    @torch.no_grad()
    def read_one(text: str) -> Tensor:
        try:
            return clip_model.encode_texts(model, [text])[0]
        except RuntimeError as error:  # the tokenizer's
            raise ValueError(
                f"“{text}” is too long: this CLIP reads {model.context_length} "
                "tokens, which is about as many short words."
            ) from error

    def read(texts: Sequence[str]) -> Tensor:
        return torch.stack([read_one(text) for text in texts])

    return cases, see, read


def columns_of(profile: Profile, nouns: Sequence[str]) -> list[str]:
    return [*nouns, "CBS, mean", f"CBS over {profile.losses.cbs_threshold:g}"]


def prompt_figure(profile: Profile) -> Figure:
    """Similarities of one val picture's regions with the profile's texts, and both forms of CBS."""
    cases, see, read = open_lab(profile)
    nouns, texts = parse_texts(
        cases.first, ", ".join(grounds_of(profile, cases.first)), profile.prompts.template
    )
    _, regions, features = see(cases.numbers(cases.first)[0], cases.first)
    table = ask(features, read(texts), profile.losses.cbs_threshold)
    return plots.heat_table(
        table,
        list(regions),
        columns_of(profile, nouns),
        f"what CLIP says about regions of a picture of {cases.first}",
    )


def prompt_lab(profile: Profile) -> Panel:
    """Type a class text and background texts, and see what CLIP says to each region."""
    cases, see, read = open_lab(profile)

    def look(klass: str, picture: int, noun: str, background: str, template: str) -> View:
        nouns, texts = parse_texts(noun, background, template)
        _, regions, features = see(picture, klass)
        table = ask(features, read(texts), profile.losses.cbs_threshold)
        return View(
            {name: visible(region[0]) for name, region in regions.items()},
            shaded_table(
                table,
                list(regions),
                columns_of(profile, nouns),
                "similarity with each text, and CBS if the region were the mask",
            ),
        )

    picks = pickers(cases)
    fields = {
        "noun": widgets.Text(
            cases.first, description="class text", tooltip="takes the place of {} in the template"
        ),
        "background": widgets.Text(
            ", ".join(grounds_of(profile, cases.first)),
            description="background texts",
            tooltip="with commas between them",
        ),
        "template": widgets.Text(
            profile.prompts.template,
            description="template",
            tooltip="the sentence around every text",
        ),
    }

    def follow(change: dict) -> None:
        fields["noun"].value = change["new"]
        fields["background"].value = ", ".join(grounds_of(profile, change["new"]))

    picks["klass"].observe(follow, "value")
    return Panel("Prompt lab", picks | fields, look)
