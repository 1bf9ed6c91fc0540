"""Renders README.md from results/*.json; `--check` fails when it is not what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
HEAD = """# What is fast, and how fast

Every figure is a ratio of two programs that took turns in one run on one machine; `ci/bench` runs
them all and writes this file. (Two versions' first runs stood one after the other: first_run.py.)
The peers are installed by `ci/bench` alone, the extra `bench`. Above 1, ours is faster. Nothing in
the tests depends on a time.
"""
NO_GPU = """
## On a GPU

Not measured yet: no run on a machine with a GPU is committed. There, `ci/bench` adds the CRF in
batches, maps at crop 512, and CLIMS training at crop 512 and batch 16 with CLIP of the shapes of
ViT-B/32 and RN50 (random weights): images/s, peak memory and the ratio to the published loop.
"""
PROSE = {
    "crf": "Dense CRF (`clims_lib/crf.py`)",
    "clims_step": "One CLIMS training step (`objectives.clims_training_loss`)",
    "cam_inference": "Maps of a data set (`cam.multi_scale_cam`)",
    "miou": "mIoU over a data set (`metrics.py`)",
    "loading": "Do data keep the trainer waiting?",
    "first_run": "The first run of everything, and that of version fece182",
    "growth": "The whole tutorial: how its stages grow, and where the minutes go",
}

NOTES = {
    "cam_inference": """GradCAM explains the network as it was trained. Ours has its batch norms in
its convolutions (`cam.fold_batch_norms`), since no backward pass follows: 3 % (fp32) and 5 % (bf16)
less time than without.
""",
    "first_run": """Version fece182 had no random walk and no DeepLab, which take about 80 of
notebook 04's seconds. Half the time is not reached, and fewer steps are not the way: a third is the
small CLIP's training, and with 700 or 550 of its 1100 steps, or half its batch, CLIMS falls from
64.3 mIoU to 61.6, 55.9 and 61.4 (test, seed 0; its spread over seeds is 0.1).
""",
}


def number(value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ", ".join(map(number, value)) if isinstance(value, list) else str(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(rows: list[dict]) -> str:
    """A Markdown table of the columns that any row has, in the order they are met."""
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "rounds"))
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(number(row.get(c)) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def render(folder: Path) -> str:
    parts = [HEAD]
    for start, title in PROSE.items():
        files = sorted(folder.glob(f"{start}*.json"))
        if not files:
            continue
        parts.append(f"\n## {title}\n")
        for file in files:
            found = json.loads(file.read_text(encoding="utf-8"))
            where = ", ".join(f"{k} {v}" for k, v in found["environment"].items() if v)
            parts.append(f"`{found['command'].strip()}` ({where})\n\n{table(found['rows'])}\n")
            picture = file.with_suffix(".png")
            if picture.is_file():
                what = title.replace("`", "")
                parts.append(f"![{what}; curves of growth with size](results/{picture.name})\n")
        if start in NOTES:
            parts.append(NOTES[start])
    if not list(folder.glob("*cuda*.json")):
        parts.append(NO_GPU)
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    text, path = render(HERE / "results"), HERE / "README.md"
    if "--check" in arguments:
        return int(path.read_text(encoding="utf-8") != text)
    path.write_text(text, encoding="utf-8")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
