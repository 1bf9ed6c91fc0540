"""Writes notebooks/recipes.md, "What we run and what they ran": python ci/recipes.py.

A row of recipe_rows.py whose columns differ needs a reason, and has one only then; a test holds that
and the page.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from recipe_rows import ROOT, SECTIONS, Row

from clims_lib.artifacts import atomic_path
from clims_lib.config import Profile, load_profile

PAGE = ROOT / "notebooks" / "recipes.md"


def text_of(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(text_of, value))
    return f"{value:g}" if isinstance(value, int | float) else str(value)


@cache
def profiles() -> tuple[Profile, Profile]:
    return load_profile("voc2012"), load_profile("voc2012_release")


def cells(row: Row) -> list[str]:
    """What is written in a row: the paper, both releases, both of our profiles."""
    ours = [row.ours(profile) for profile in profiles()]
    return [text_of(value) for value in (row.paper, row.camera_ready, row.improved, *ours)]


def differs(row: Row) -> bool:
    _, camera_ready, improved, *ours = cells(row)
    return ours != [camera_ready, improved]


def page() -> str:
    lines = [
        "# What we run and what they ran",
        "",
        "The paper, the two releases of its authors' code, and the two profiles that run them here.",
        "*Camera-ready* is the release with a finetuned CLIP, which the appendix describes: profile",
        "`voc2012`. *Improved* is the later one, without finetuning: `voc2012_release`. Where the",
        "paper is silent its column is empty. Every value of a release comes from figures of the",
        "authors' code, against which tests hold ours; this page is written by `ci/recipes.py`.",
    ]
    for title, rows in SECTIONS.items():
        lines += ["", f"## {title}", ""]
        lines += ["| | paper | camera-ready | `voc2012` | improved | `voc2012_release` |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in rows:
            paper, camera_ready, improved, ours, ours_too = cells(row)
            mark = " \\*" if row.why else ""
            line = [row.what + mark, paper, camera_ready, ours, improved, ours_too]
            lines.append("| " + " | ".join(line) + " |")
        reasons = [f"\\* {row.what}: {row.why}." for row in rows if row.why]
        lines += ["", *"\n\n".join(reasons).split("\n")] if reasons else []
    lines += ["", *KEPT.strip().split("\n")]
    return "\n".join(lines) + "\n"


KEPT = """
## Accidents that are kept

Where the released behaviour is an accident, the profiles have it all the same, because the published
numbers came of it; a setting gives the sane one.

| what happens | setting | sane |
|---|---|---|
| weight decay lands in SGD's momentum, which is 1e-4 in place of 0.9: steps are a tenth as long | `compute.optimiser` | `"sgd"` |
| CBS is summed over the pairs of a batch, so its weight grows with the batch (notebook 02) | `losses.cbs` | `"image_mean"` |
| without a clamp, a negative similarity gives NaN | `losses.clamped` | all three |
| VAT's direction is rounding noise, its step a thousandth of what was meant (notebook 06) | `cct.vat_xi` | 0.1 |
| cut-out never cuts a rectangle | `cct.cutout_rule` | `"ours"` |
| scores of CCT never fall below 0 | `cct.decoder` | `"ours"` |
"""


def update_page() -> None:
    with atomic_path(PAGE) as temporary:
        temporary.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    update_page()
