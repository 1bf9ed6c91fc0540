"""What subcommands share: their options, and the programs in the checkout's ci/."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

from clims_lib.config import CHECKOUT


def in_checkout(name: str) -> Path:
    """A file of the checkout; raises RuntimeError where clims_lib is installed without one."""
    path = CHECKOUT / name
    if not path.exists():
        raise RuntimeError(
            f"works in a checkout of the repository only, and {CHECKOUT} is none: clone it and "
            "install it from there with python -m pip install -e ."
        )
    return path


def program(name: str) -> ModuleType:
    """The module ci/<name>.py, imported now."""
    folder = str(in_checkout(f"ci/{name}.py").parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def profile_option(parser: argparse.ArgumentParser) -> None:
    """--profile, as `load_profile` takes it."""
    parser.add_argument(
        "--profile",
        default="mini",
        type=_profile,
        help="name in clims_lib/profiles or a .toml file (default: mini)",
    )


def setting_options(
    parser: argparse.ArgumentParser, what: str = "a setting (clims.epochs=2)"
) -> None:
    """-p and --data-root: together the `overrides` of `load_profile`, the last one wins."""
    parser.add_argument(
        "-p",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="overrides",
        help=f"set {what}; may be given several times",
    )
    parser.add_argument(
        "--data-root",
        action="append",
        type=data_root,
        metavar="FOLDER",
        dest="overrides",
        help="where the data set is (VOC2012: the folder with JPEGImages); the environment's "
        "VOC_ROOT says the same",
    )


def _profile(text: str) -> str:
    """Kernels and other processes start elsewhere, so a file is named from the root of the disk."""
    return str(Path(text).resolve()) if text.endswith(".toml") else text


def data_root(text: str) -> str:
    """The setting that --data-root stands for."""
    return f"data_root={json.dumps(str(Path(text).resolve()))}"


def at_least_one(text: str) -> int:
    """The `type` of an option that counts."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("is a number, at least 1")
    return int(text)
