"""The subcommands that the library alone answers, without notebooks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clims_lib.commands.options import profile_option, setting_options
from clims_lib.config import ROOT, load_profile


def download(parser: argparse.ArgumentParser) -> Callable:
    """Fetch what the voc2012 profile needs.

    PASCAL VOC2012 and SBD from where torchvision finds them, CLIP from where `clip` does, ResNet-50
    and DeepLab's ResNet-101 from torchvision's weights. A broken download goes on where it stopped;
    nothing is used before its checksum is right.
    """
    parser.add_argument(
        "what", choices=["voc2012", "weights"], help="weights: CLIP and ResNets only"
    )
    parser.add_argument(
        "--data-root", type=Path, default=ROOT / "data", help="default: data in the checkout"
    )

    def run(what: str, data_root: Path) -> None:
        from clims_lib.data.download import get_all, get_weights

        print(*([get_all(data_root)] if what == "voc2012" else get_weights(data_root)), sep="\n")

    return run


def train(parser: argparse.ArgumentParser) -> Callable:
    """Train one CAM network, on one process or on many.

        clims train clims --profile voc2012
        accelerate launch --num_processes 4 -m clims_lib train clims --profile voc2012

    What it needs (baseline, finetuned CLIP) is trained first when it is not there. Notebooks find
    the result. Several nodes: see `accelerate launch --help`.
    """
    parser.add_argument("method", help="cam, puzzle_cam, clims, clims_no_btm, full_masks, ...")
    profile_option(parser)
    setting_options(parser)

    def run(method: str, profile: str, overrides: list[str]) -> None:
        from clims_lib.stages.all_gpus import train_here

        print(train_here(load_profile(profile, overrides), method))

    return run


def segment(parser: argparse.ArgumentParser) -> Callable:
    """Segment a split with a trained network, no labels given.

        clims segment cct_clims --profile voc2012 --split test

    prints the folder of <id>.png masks that `clims submission` packs for the evaluation server. The
    split needs only a list and pictures; VOC2012's test pictures come from its server and go beside
    the others into JPEGImages, their list into ImageSets/Segmentation/test.txt.
    """
    parser.add_argument("method", help="deeplab_clims, supervised, cct, cct_clims, ...")
    profile_option(parser)
    setting_options(parser)
    parser.add_argument("--split", default="test", help="default: test")

    def run(method: str, profile: str, overrides: list[str], split: str) -> None:
        from clims_lib.stages.segmentations import make_segmentations

        print(make_segmentations(load_profile(profile, overrides), method, split))

    return run


def submission(parser: argparse.ArgumentParser) -> Callable:
    """Pack segmentations for PASCAL VOC's evaluation server: the only way to a number on VOC test.

        clims submission outputs/voc2012/segmentations --root data/VOC2012

    An incomplete or ill-fitting archive is refused here.
    """
    parser.add_argument("masks", type=Path, help="folder of <id>.png")
    parser.add_argument("--root", type=Path, required=True, help="VOC-layout folder")
    parser.add_argument("--split", default="test", help="default: test")
    parser.add_argument("--competition", default="comp6", choices=["comp5", "comp6"])
    parser.add_argument("--out", type=Path, default=Path("submission.tgz"))

    def run(**options: Any) -> None:
        from clims_lib.data.submission import write_submission

        print(write_submission(**options))

    return run


def claims(parser: argparse.ArgumentParser) -> Callable:
    """Print the committed table's claims, each with its goal and what was measured."""
    profile_option(parser)

    def run(profile: str) -> None:
        from clims_lib.results.claims import claims, claims_table
        from clims_lib.results.tables import read_committed

        settings = load_profile(profile)
        print(claims_table(claims(read_committed(settings), read_committed(settings, "zero_shot"))))

    return run
