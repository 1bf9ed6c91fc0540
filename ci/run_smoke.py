"""Run all notebooks on an invented VOC2012 with a random CLIP: does the code take real sizes?

Pictures of 500 x 375 and 375 x 500, all twenty classes, 255 borders, objects marked as difficult.
First the camera-ready recipe, then the improved release as on a machine without CLIP's weights, and
last what that release's CLIMS does with them.
"""

import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clims_lib.__main__ import main as clims
from clims_lib.artifacts import atomic_path, read_json
from clims_lib.batches import FILL
from clims_lib.clip_model import new_clip, save_clip
from clims_lib.config import load_profile
from clims_lib.data.voc import VOC_CLASSES, write_mask
from clims_lib.labels import IGNORE
from clims_lib.stages.measures import measure


def write_voc(root: Path, train: int, val: int, labelled: int) -> None:
    """A tree in VOC2012's layout: names, sizes, lists and palettes as there, contents invented."""
    rng, names = np.random.default_rng(0), [f"2007_{i:06d}" for i in range(train + val)]
    for i, name in enumerate(names):
        height, width = (375, 500) if i % 3 else (500, 375)
        y, x = np.mgrid[:height, :width]
        picture = np.full((height, width, 3), FILL) + rng.normal(0, 12, (height, width, 3))
        mask = np.zeros((height, width), np.uint8)
        # the classes that the notebooks look at, then all of them
        for k in {(18, 3, 14)[i % 3] if i >= train else i % 20, int(rng.integers(20))}:
            cy, cx = rng.uniform(0.3, 0.7, 2) * (height, width)
            far = np.hypot((y - cy) / rng.uniform(50, 110), (x - cx) / rng.uniform(50, 110))
            mask[far < 1.05] = IGNORE
            mask[far < 1] = k + 1
            picture[far < 1] += rng.uniform(-90, 90, 3)
        (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
        colours = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
        colours.save(root / "JPEGImages" / f"{name}.jpg", quality=85)
        weak = labelled <= i < train
        write_mask(root / f"SegmentationClass{'Aug' if weak else ''}" / f"{name}.png", mask)
    lists = {
        "train": names[:labelled],
        "train_labelled": names[:labelled],
        "train_weak": names[labelled:train],
        "trainaug": names[:train],
        "val": names[train:],
    }
    for split, some in lists.items():
        with atomic_path(root / "ImageSets" / "Segmentation" / f"{split}.txt") as temporary:
            temporary.write_text("\n".join(some) + "\n")


def main(arguments: list[str]) -> int:
    os.environ.pop("VOC_ROOT", None)  # the invented tree, whatever else there is
    profile = load_profile("voc2012_smoke")
    data = profile.data
    assert data.classes == VOC_CLASSES
    if not (profile.data_root / "ImageSets" / "Segmentation" / "val.txt").is_file():  # comes last
        write_voc(profile.data_root, data.train, data.val, data.labelled)
    checkpoint = profile.weights / "clip.pt"
    if not checkpoint.is_file():
        torch.manual_seed(0)
        save_clip(
            new_clip(
                resolution=224,
                layers=(1, 1, 1, 1),
                width=8,
                embed_dim=32,
                text_width=64,
                text_layers=1,
                context_length=77,
                seed=0,
            ),
            checkpoint,
        )
    run = ["tutorial", *arguments, "--profile"]
    failed = clims([*run, profile.name])
    if failed or "--only" in run:
        return failed
    outputs, name = profile.outputs.with_name("voc2012_smoke_no_clip"), "voc2012_release_smoke"
    return without_clip([*run, name], checkpoint.with_name("absent.pt"), outputs) or release(name)


def release(name: str) -> int:
    """CLIMS of the improved release: its maps, its walk, its masks, what learns from them."""
    profile = load_profile(name)
    for row in ("clims_walk_crf", "cct_clims"):
        print(*(f"{r['method']} on {r['split']}: {r['miou']:.3f}" for r in measure(profile, row)))
    return 0


def without_clip(run: list[str], checkpoint: Path, outputs: Path) -> int:
    """All notebooks again, CLIP's weights being absent: what does not need them is measured."""
    settings = {
        "clip_checkpoint": str(checkpoint),
        "outputs": str(outputs),
        "pseudo.method": "cam_walk",
    }
    words = [("-p", f"{name}={json.dumps(value)}") for name, value in settings.items()]
    failed = clims([*run, *itertools.chain(*words)])
    if failed:
        return failed
    methods = {row["method"] for row in read_json(outputs / "results.json")["rows"]}
    if {"cam", "supervised", "cct"} <= methods and not any(
        "clims" in m or "clip" in m for m in methods
    ):
        return 0
    print(f"without CLIP these were measured: {sorted(methods)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
