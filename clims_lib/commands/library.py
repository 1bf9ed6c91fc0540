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
    nothing is used before its checksum is right. Nothing begins where SciPy or room on the disk is
    missing, also for what the profile writes later.
    """
    parser.add_argument(
        "what", choices=["voc2012", "weights"], help="weights: CLIP and ResNets only"
    )
    parser.add_argument(
        "--data-root", type=Path, default=ROOT / "data", help="default: data in the checkout"
    )

    def run(what: str, data_root: Path) -> None:
        from clims_lib.data.download import get_all, get_weights
        from clims_lib.results.readiness import check_download

        if what == "weights":
            print(*get_weights(data_root), sep="\n")
            return
        print(check_download(data_root))
        print(get_all(data_root))

    return run


def plan(parser: argparse.ArgumentParser) -> Callable:
    """Say what a run will make, with steps, GPU memory, hours and disk, and what it still lacks.

        clims plan --profile voc2012 --gpu H100
        clims plan --profile voc2012 -p compute.accumulate=2

    Nothing is trained or read but what is there: it takes about half a minute, without data,
    weights or a GPU. The exit code is 1 where something is missing that keeps the run from
    beginning; the last lines name all of it, with the command that mends each.
    """
    profile_option(parser)
    setting_options(parser)
    parser.add_argument(
        "--gpu", help="hours on this one, e.g. H100 (default: the one here, or A100)"
    )

    def run(profile: str, overrides: list[str], gpu: str | None) -> None:
        from clims_lib.costs import gpu_called
        from clims_lib.results.budget import budget, plan_table, this_gpu
        from clims_lib.results.readiness import reasons, refuse
        from clims_lib.stages.checks import check

        settings, card = load_profile(profile, overrides), gpu_called(gpu or this_gpu())
        check(settings)
        rows = budget(settings, card)
        print(plan_table(settings, card, rows))
        if missing := reasons(settings, rows):
            raise ValueError(refuse(settings, missing))

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
        from clims_lib.stages.checks import check

        settings = load_profile(profile, overrides)
        check(settings, segmenters=False, row=method)
        print(train_here(settings, method))

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
        from clims_lib.stages.checks import check
        from clims_lib.stages.methods import trainer_of
        from clims_lib.stages.segmentations import make_segmentations

        settings = load_profile(profile, overrides)
        trainer_of(settings, method)  # a name that is none is refused
        check(settings, row=method)
        print(make_segmentations(settings, method, split))

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
    """Print the committed table's claims, each with its goal, what was measured, the verdict."""
    profile_option(parser)

    def run(profile: str) -> None:
        from clims_lib.results.verdicts import claims_table, committed_claims

        print(claims_table(committed_claims(load_profile(profile))))

    return run
