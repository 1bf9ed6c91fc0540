"""Writes notebooks/recipes.md, "What we run and what they ran": python ci/recipes.py.

The releases' columns come from figures of the authors' code (tests/golden), ours from the profiles.
A row whose columns differ needs a reason, and has one only then; a test holds that and the page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from clims_lib.artifacts import atomic_path  # noqa: E402
from clims_lib.config import Profile, load_profile  # noqa: E402
from clims_lib.optimisers import whole_batches  # noqa: E402
from clims_lib.prompts import parse_background  # noqa: E402
from clims_lib.stages.clip import texts_of  # noqa: E402

PAGE = ROOT / "notebooks" / "recipes.md"


def golden(name: str) -> dict:
    return json.loads((ROOT / "tests" / "golden" / f"{name}.json").read_text())


_NETWORK, _TEXTS = golden("network"), golden("clims_texts")
FACTS = {name.split(" (")[0]: facts for name, facts in _NETWORK["facts"].items()}
FINETUNING = _TEXTS["finetuning_camera_ready"]
CAMERA_TEXTS, IMPROVED_TEXTS = (case["outputs"] for case in _TEXTS["cases"][:2])
BASE_C, BASE_I = FACTS["camera_ready_baseline"], FACTS["root_baseline"]
CLIMS_C, CLIMS_I = FACTS["camera_ready_CLIMS"], FACTS["root_CLIMS"]
PUZZLE, IRN, DEEPLAB = FACTS["puzzle"], FACTS["irn"], FACTS["segmentation"]

Ours = Callable[[Profile], Any]


@dataclass(frozen=True)
class Row:
    """What the paper says ("" where it is silent), what each release ran, what a profile runs.

    why: of a difference that remains between a release and its profile.
    """

    what: str
    paper: Any
    camera_ready: Any
    improved: Any
    ours: Ours
    why: str = ""


def setting(name: str) -> Ours:
    """The value of a dotted setting."""

    def of(profile: Profile) -> Any:
        value: Any = profile
        for part in name.split("."):
            value = getattr(value, part)
        return list(value) if isinstance(value, tuple) else value

    return of


def crop_of(section: str) -> Ours:
    return lambda p: setting(f"{section}.crop")(p) or p.augment.crop


def steps_of(section: str) -> Ours:
    """Steps over which the rate decays."""

    def of(p: Profile) -> int:
        own = getattr(p, section)
        return whole_batches(p.data.train, own.batch, own.epochs)

    return of


def decay(facts: dict) -> int:
    """The releases write it as "(10582 // 16) * 15 = 9915, ..."."""
    return int(facts["max_step"].split(" = ")[1].split(",")[0])


def background(p: Profile) -> str:
    table = parse_background(p.losses.background)
    if isinstance(table, dict):
        return "; ".join(f"{name}: {', '.join(texts)}" for name, texts in table.items())
    return f"all: {', '.join(table)}"


def bare(texts: list[str]) -> str:
    return ", ".join(text.removeprefix("a photo of ").removesuffix(".") for text in texts)


def finetuned(name: str) -> Ours:
    """A setting of the finetuning; "" where there is none."""
    return lambda p: "" if p.finetune.loss == "none" else setting(f"finetune.{name}")(p)


NORMS = {"statistics_only": "move; weights stay", "fixed": "fixed; weights learn", "train": "learn"}
PERSON, TABLE_CLASS = 14, 10  # places in VOC's classes
_C_GROUNDS = "; ".join(
    f"{name}: {bare(texts)}" for name, texts in CAMERA_TEXTS["background_texts_by_class"].items()
)
_TRIPLED = bare(sorted(CAMERA_TEXTS["classes_with_triple_weight_by_prompt"]))
_RESIZE = BASE_C["resize_long"]

SECTIONS: dict[str, list[Row]] = {
    "CLIP and what it is asked": [
        Row("CLIP", "ViT-B/32", "ViT-B/32", "ViT-B/32", setting("clip_checkpoint")),
        Row(
            "finetuned",
            "yes",
            "both towers",
            "no",
            lambda p: "no" if p.finetune.loss == "none" else "both towers",
        ),
        Row(
            "epochs of finetuning",
            20,
            FINETUNING["epochs"],
            "",
            lambda p: finetuned("steps")(p) and p.finetune.steps // -(-p.data.train // 16),
        ),
        Row(
            "its pictures",
            "",
            "shuffled, epoch by epoch",
            "",
            lambda p: finetuned("batch")(p) and "drawn for every batch",
            "over 13,240 batches each picture is seen twenty times in the mean, not exactly",
        ),
        Row(
            "its weights",
            "",
            "half precision",
            "",
            lambda p: finetuned("batch")(p) and "single precision",
            "steps of 5e-5 get lost in half precision, also with updates in single",
        ),
        Row("its batch", 16, FINETUNING["batch"], "", finetuned("batch")),
        Row("its rate, SGD", 5e-5, FINETUNING["lr"], "", finetuned("lr")),
        Row("its weight decay", 1e-3, FINETUNING["weight_decay"], "", finetuned("weight_decay")),
        Row("its crops, pixels", "", FINETUNING["crop"], "", finetuned("crop")),
        Row("both cross entropies", "", "sum", "", finetuned("directions")),
        Row(
            "person is called",
            "a photo of person",
            CAMERA_TEXTS["single_label_prompts"][PERSON],
            IMPROVED_TEXTS["single_label_prompts"][PERSON],
            lambda p: texts_of(p)[PERSON],
        ),
        Row(
            "diningtable is called",
            "",
            CAMERA_TEXTS["single_label_prompts"][TABLE_CLASS],
            IMPROVED_TEXTS["single_label_prompts"][TABLE_CLASS],
            lambda p: texts_of(p)[TABLE_CLASS],
        ),
        Row(
            "background texts",
            "both forms",
            _C_GROUNDS,
            f"all: {bare(IMPROVED_TEXTS['background_texts_all_classes'])}",
            background,
        ),
        Row("CLIP sees units of", "", "clip", "imagenet", setting("losses.normalisation")),
    ],
    "The losses": [
        Row(
            "weights of OTM, BTM, CBS, REG",
            [10, 24, 1, 0.2],
            CLIMS_C["hyper"],
            CLIMS_I["hyper"],
            lambda p: list(p.losses.weights.values()),
        ),
        Row("OTM, BTM of a batch", "one picture", *["pair_mean"] * 2, setting("losses.otm_btm")),
        Row("CBS of a batch", "one picture", *["pair_sum"] * 2, setting("losses.cbs")),
        Row(
            "CBS of a pair",
            "both forms",
            "mean over texts",
            "sum above 0.26",
            lambda p: (
                f"sum above {p.losses.cbs_threshold:g}"
                if p.losses.cbs_form == "thresholded"
                else "mean over texts"
            ),
        ),
        Row("clamped", "", [], ["otm", "btm"], setting("losses.clamped")),
        Row("weigh 3", "", _TRIPLED, "", lambda p: ", ".join(p.losses.class_weights)),
    ],
    "The baseline CAM network": [
        Row("crop, pixels", 512, BASE_C["crop"], BASE_I["crop"], crop_of("cam")),
        Row("longer side, pixels", "", _RESIZE, BASE_I["resize_long"], setting("augment.resize")),
        Row("epochs", "", BASE_C["epochs"], BASE_I["epochs"], setting("cam.epochs")),
        Row("batch", 16, BASE_C["batch"], BASE_I["batch"], setting("cam.batch")),
        Row("rate", "", BASE_C["lr"], BASE_I["lr"], setting("cam.lr")),
        Row(
            "head's rate, times",
            "",
            BASE_C["head_lr_multiplier"],
            BASE_I["head_lr_multiplier"],
            setting("cam.head_lr_factor"),
        ),
        Row("decays over, steps", "", decay(BASE_C), decay(BASE_I), steps_of("cam")),
        Row(
            "batch norms",
            "",
            "move; weights stay",
            "fixed; weights learn",
            lambda p: NORMS[p.cam.norms],
        ),
        Row("momentum of SGD", "", *["1e-4, an accident"] * 2, lambda p: momentum(p)),
    ],
    "CLIMS": [
        Row("crop, pixels", 512, CLIMS_C["crop"], CLIMS_I["crop"], crop_of("clims")),
        Row("epochs", 15, CLIMS_C["epochs"], CLIMS_I["epochs"], setting("clims.epochs")),
        Row("batch", 16, CLIMS_C["batch"], CLIMS_I["batch"], setting("clims.batch")),
        Row("rate", 2.5e-4, CLIMS_C["lr"], CLIMS_I["lr"], setting("clims.lr")),
        Row(
            "head's rate, times",
            10,
            1,
            CLIMS_I["head_lr_multiplier"],
            setting("clims.head_lr_factor"),
        ),
        Row("head", "linear", "bottleneck", "linear", setting("clims.head")),
        Row("decays over, steps", "", decay(CLIMS_C), decay(CLIMS_I), steps_of("clims")),
        Row("batch norms", "", "move; weights stay", "learn", lambda p: NORMS[p.clims.norms]),
        Row(
            "a batch with one pair",
            "",
            "crashes",
            "crashes",
            lambda p: "trains",
            "there is nothing to be learnt from a crash",
        ),
    ],
    "From maps to masks": [
        Row("map", "sigmoid", "relu", "relu", setting("clims.maps")),
        Row("scales", *[[0.5, 1.0, 1.5, 2.0]] * 3, setting("inference.scales")),
        Row(
            "each picture",
            "",
            "at its own size",
            "at its own size",
            lambda p: {"picture": "at its own size", "canvas": "on a canvas"}[p.inference.seen],
        ),
        Row(
            "maps that seeds are cut from",
            "",
            "every pixel",
            "every pixel",
            lambda p: "every pixel" if p.inference.stride == 1 else "a quarter, enlarged",
            "20 GB less on disk; inference.stride=1 and inference.grid=16 give theirs",
        ),
        Row(
            "threshold of seeds",
            0.15,
            "best of 0.05 .. 0.75",
            0.15,
            lambda p: "best on pictures of train",
            "chosen on train pictures that are not the ones scored, the same way for every method",
        ),
        Row(
            "random walk",
            "yes",
            "IRNet's edges, called AffinityNet",
            "IRNet's edges",
            lambda p: {"irnet": "IRNet's edges", "affinitynet": "AffinityNet"}[p.walk.form],
            'a name changes nothing; walk.form = "affinitynet" is the one of Ahn and Kwak, 2018',
        ),
        Row(
            "sure object, background",
            "",
            IRN["conf_fg/bg"]["camera-ready"],
            IRN["conf_fg/bg"]["CLIMS root"],
            lambda p: [p.walk.high, p.walk.low],
        ),
        Row("power, steps", "", [10, 256], [10, 256], lambda p: [p.walk.beta, p.walk.times]),
        Row(
            "threshold after the walk",
            "",
            IRN["sem_seg_bg_thres"]["camera-ready make_pseudo_labels"],
            IRN["sem_seg_bg_thres"]["CLIMS root"],
            lambda p: p.walk.thresholds[0],
        ),
    ],
    "The peers and the judges": [
        Row("PuzzleCAM: rate", 0.1, PUZZLE["lr"], PUZZLE["lr"], setting("puzzle.lr")),
        Row("PuzzleCAM: batch", 32, PUZZLE["batch"], PUZZLE["batch"], setting("puzzle.batch")),
        Row("PuzzleCAM: epochs", 15, PUZZLE["epochs"], PUZZLE["epochs"], setting("puzzle.epochs")),
        Row("DeepLabV2: iterations", "", *[DEEPLAB["iterations"]] * 2, setting("deeplab.steps")),
        Row("DeepLabV2: rate", "", *[DEEPLAB["lr"]] * 2, setting("deeplab.lr")),
        Row("DeepLabV2: crop", "", *[DEEPLAB["crop_train"]] * 2, setting("deeplab.crop")),
        Row(
            "DeepLabV2: first weights",
            "ImageNet",
            "ImageNet, by Caffe",
            "ImageNet, by Caffe",
            lambda p: f"{p.deeplab.start}, by torchvision".replace("imagenet", "ImageNet"),
            "torchvision's ResNet-101 comes with a checksum; its colours are scaled differently",
        ),
        Row(
            "DeepLabV2: training scales",
            "",
            *["one of seven, 0.5 .. 2"] * 2,
            lambda p: f"any of {p.deeplab.resize[0]:g} .. {p.deeplab.resize[1]:g}",
            "crops are drawn like all others here",
        ),
        Row("CCT: weight of consistency", 30, 30, 30, setting("cct.unsupervised_weight")),
        Row("CCT: auxiliary decoders", "", 30, 30, lambda p: sum(dict(p.cct.auxiliary).values())),
        Row("CCT: step of VAT", "", "1e-06", "1e-06", lambda p: f"{p.cct.vat_xi:g}"),
        Row(
            "arithmetic of training",
            "",
            *["float32"] * 2,
            lambda p: "float32" if p.compute.full_precision else "bfloat16",
            "it halves memory and hours; compute.full_precision=true is theirs",
        ),
        Row(
            "CCT: stem",
            "",
            "three 3x3",
            "three 3x3",
            lambda p: "7x7",
            "the weights of the deep stem come without a known checksum; torchvision's do not",
        ),
    ],
}


def momentum(profile: Profile) -> str:
    released = profile.compute.optimiser.startswith("released")
    return "1e-4, an accident" if released else "0.9"


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
