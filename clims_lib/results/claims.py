"""What the tutorial claims, each with its goal and what was measured: notebook 07 and the README.

A claim compares two rows of one seed, so its mean and spread are those of the seeds' differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from clims_lib.losses import TERMS
from clims_lib.results.tables import headline_of, mean_spread

PAIRS = ("railroad->train", "water->boat")


def claims(rows: Iterable[dict], zero_shot: Iterable[dict] = (), split: str = "") -> list[dict]:
    """[{"claim", "goal", "mean", "spread", "seeds", "met"}] for all claims that can be tested.

    Numbers are points of per cent; met: mean >= goal. Claims whose rows are absent are left out.
    """
    rows, zero_shot = list(rows), list(zero_shot)
    split = split or headline_of(rows + zero_shot)
    by_seed: dict[int, dict[str, dict]] = {}
    for row in rows:
        if row["split"] == split:
            by_seed.setdefault(row["seed"], {})[row["method"]] = row
    accuracy: dict[int, dict[str, dict]] = {}
    for entry in zero_shot:
        if entry["split"] == split:
            accuracy.setdefault(entry["seed"], {})[entry["model"]] = entry["accuracy"]
    tested = []

    def test(claim: str, goal: float, measure: Callable[..., float], seeds: dict = by_seed) -> None:
        values = []
        for found in seeds.values():
            try:
                values.append(100 * measure(found))
            except (KeyError, TypeError, ZeroDivisionError):
                continue  # this seed lacks a row, a class has no picture, nothing leaked before
        if values:
            mean, spread, count = mean_spread(values)
            tested.append(
                {
                    "claim": claim,
                    "goal": goal,
                    "mean": mean,
                    "spread": spread,
                    "seeds": count,
                    "met": mean >= goal,
                }
            )

    before, after = "clip", "clip_finetuned"
    test(
        "zero-shot person, over twice what it was",
        0,
        lambda m: m[after]["person"] - 2 * m[before]["person"],
        accuracy,
    )
    test(
        "zero-shot, the other class that changed worst",
        0,
        lambda m: min(m[after][c] - m[before][c] for c in m[before] if c != "person"),
        accuracy,
    )
    for other, name in (("cam", "CAM"), ("puzzle_cam", "PuzzleCAM")):
        least = 10 if other == "cam" else 0
        test(f"CLIMS over {name}, mIoU", least, _more("clims", other))
        test(f"CLIMS over {name}, person IoU", least, _more("clims", other, "person"))
        test(
            f"CLIMS over {name}, worst class",
            0,
            lambda m, o=other: min(
                m["clims"]["iou"][c] - m[o]["iou"][c] for c in m["clims"]["iou"]
            ),
        )
        for pair in PAIRS:
            test(
                f"leak {pair} cut against {name}, relative",
                60,
                lambda m, o=other, p=pair: 1 - m["clims"]["leak"][p] / m[o]["leak"][p],
            )
        test(
            f"gap from {name} to full masks closed by CLIMS + CRF",
            60,
            lambda m, o=other: (
                (m["clims_crf"]["miou"] - m[o]["miou"]) / (m["full_masks"]["miou"] - m[o]["miou"])
            ),
        )
    for control, name in (("cam_longer", "a CAM trained as long"), ("cam_area", "an area penalty")):
        test(f"CLIMS over {name}, mIoU", 10, _more("clims", control))
    for term in TERMS:
        test(f"what L_{term.upper()} adds, mIoU", 0, _more("clims", f"clims_no_{term}"))
    test("CRF on CLIMS, mIoU", 5, _more("clims_crf", "clims"))
    test("random walk on CLIMS, mIoU", 0, _more("clims_walk", "clims"))
    test("random walk before the CRF, mIoU", 0, _more("clims_walk_crf", "clims_crf"))
    test("CCT over supervised only, mIoU", 0, _more("cct", "supervised"))
    test("CCT + CLIMS over CCT, mIoU", 3.7, _more("cct_clims", "cct"))
    test("consistency on top of pseudo masks, mIoU", 0, _more("cct_clims", "pseudo_only"))
    return tested


def _more(method: str, other: str, measure: str = "miou") -> Callable[[dict], float]:
    """found rows -> how much higher the first method's mIoU or IoU of a class is."""

    def score(row: dict) -> float:
        return row["miou"] if measure == "miou" else row["iou"][measure]

    return lambda found: score(found[method]) - score(found[other])


def claims_table(tested: Iterable[dict]) -> str:
    """The claims as text, one line each: goal, measured mean ± spread in points, verdict."""
    tested = list(tested)
    lines: list[tuple[str, ...]] = [("claim", "goal", "measured", "")]
    for one in tested:
        spread = f" ± {one['spread']:.1f}" if one["seeds"] > 1 else ""
        lines.append(
            (
                one["claim"],
                f">= {one['goal']:g}",
                f"{one['mean']:+.1f}{spread}",
                "met" if one["met"] else "NOT met",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        f"{a.ljust(widths[0])}  {b.rjust(widths[1])}  {c.rjust(widths[2])}  {d}".rstrip()
        for a, b, c, d in lines
    )
