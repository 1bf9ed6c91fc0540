"""Published numbers, and which of ours may stand beside each."""

from __future__ import annotations

from collections.abc import Iterable

from clims_lib.results.tables import headline_of, summary

# Where papers measure: maps and pseudo masks on VOC's own train list, networks on val; "other" is
# what no profile here can be held against, since the backbone is another one.
TRAIN, VAL, OTHER = "train_labelled", "val", "other"
CAMERA_READY, IMPROVED = "voc2012", "voc2012_release"  # the profiles of the two recipes
# (what, the paper's per cent, our method or methods' difference, our measure, where, whose recipe)
PAPER = (
    (
        "CLIMS maps, before any refinement (VOC2012 train)",
        56.6,
        "clims",
        "miou",
        TRAIN,
        CAMERA_READY,
    ),
    (
        "CLIMS maps after random walk (VOC2012 train)",
        70.5,
        "clims_walk",
        "miou",
        TRAIN,
        CAMERA_READY,
    ),
    ("improved release: CLIMS maps (VOC2012 train)", 58.6, "clims", "miou", TRAIN, IMPROVED),
    ("improved release: after IRNet (VOC2012 train)", 74.1, "clims_walk", "miou", TRAIN, IMPROVED),
    (
        "DeepLabV2 trained on CLIMS masks (VOC2012 val)",
        69.3,
        "deeplab_clims",
        "miou",
        VAL,
        CAMERA_READY,
    ),
    ("PuzzleCAM: boat (authors' table, ResNeSt-101)", 55.8, "puzzle_cam", "boat", OTHER, ""),
    ("PuzzleCAM: train (authors' table, ResNeSt-101)", 59.6, "puzzle_cam", "train", OTHER, ""),
    ("PuzzleCAM: person (authors' table, ResNeSt-101)", 34.0, "puzzle_cam", "person", OTHER, ""),
    ("Semi-supervised: CCT (Table 1, val)", 73.2, "cct", "miou", VAL, ""),
    ("Semi-supervised: CCT + CLIMS (Table 1, val)", 76.9, "cct_clims", "miou", VAL, CAMERA_READY),
    (
        "Gain of CLIMS masks over CCT (Table 1, val)",
        3.7,
        "cct_clims-cct",
        "miou",
        VAL,
        CAMERA_READY,
    ),
)
TABLE_1 = (  # the appendix's Table 1, VOC2012 mIoU in per cent on val and test
    ("WSSL", 64.6, 66.2),
    ("GAIN", 60.5, None),
    ("MDC", 65.7, 67.6),
    ("DSRG", 64.3, None),
    ("Souly et al.", 65.8, None),
    ("FickleNet", 65.8, None),
    ("CCT", 73.2, None),
    ("CCT + CLIMS", 76.9, 75.8),
)


def beside_the_paper(rows: Iterable[dict], split: str = "") -> list[tuple]:
    """Return (what, the paper's per cent, ours as (mean, spread, seeds) or None) per PAPER line.

    Rows of a run on VOC stand beside a number only if they were measured as it was: on the same
    split and with that recipe, the threshold by the papers' rule, no other backbone. Rows of other
    pictures, of which the order alone can be compared, are all from one split, by default the
    headline's, and stand once each: beside the camera-ready figure where both recipes have one.
    A gain "a-b" is the difference of means; its spread is that of the seeds' own differences.
    """
    rows = list(rows)
    of_voc = any(row["split"] == TRAIN for row in rows)
    split, lines = split or headline_of(rows), []
    for what, published, method, measure, where, recipe in PAPER:
        here = where if of_voc else split
        some = [_by_their_rule(row) for row in rows if row["split"] == here]
        some = [row for row in some if recipe in ("", row.get("profile", CAMERA_READY))]
        first, _, second = method.partition("-")
        chosen = [row for row in some if row["method"] == first]
        if second:
            base = {row["seed"]: row["miou"] for row in some if row["method"] == second}
            chosen = [
                row | {"miou": row["miou"] - base[row["seed"]], "iou": {}, "leak": {}}
                for row in chosen
                if row["seed"] in base
            ]
        lines.append((what, published, summary(chosen, here).get(first, {}).get(measure)))
    return lines


def _by_their_rule(row: dict) -> dict:
    """The row at the threshold that the papers' rule gives it, where it was measured so, too."""
    return row | {"miou": row["published_rule"]["miou"]} if "published_rule" in row else row
