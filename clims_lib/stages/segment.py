"""Segment a split with a trained network, no labels given:

    python -m clims_lib.stages.segment cct_clims --profile voc2012 --split test

prints the folder of <id>.png masks that `clims_lib.data.submission` packs for the evaluation
server. The split needs only a list and pictures; VOC2012's test pictures come from its server and
go beside the others into JPEGImages, their list into ImageSets/Segmentation/test.txt.
"""

from __future__ import annotations

import argparse
import sys

from clims_lib import deeplab
from clims_lib.config import did_you_mean, load_profile
from clims_lib.stages import semi_supervised


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m clims_lib.stages.segment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("method", help="deeplab_clims, supervised, cct, cct_clims, ...")
    parser.add_argument("--profile", default="mini", help="name or .toml file (default: mini)")
    parser.add_argument("--split", default="test", help="default: test")
    parser.add_argument(
        "-p",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="overrides",
        help="a setting, e.g. seed=1",
    )
    options = parser.parse_args(arguments)
    try:
        profile = load_profile(options.profile, options.overrides)
        semi = semi_supervised.methods_of(profile)
        known = [*semi, deeplab.method_of(profile)]
        if options.method not in known:
            raise ValueError(f"no method {options.method!r}{did_you_mean(options.method, known)}")
        if options.method in semi:
            print(semi_supervised.segment(profile, options.method, options.split))
        else:
            print(deeplab.make_deeplab_masks(profile, options.split))
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"clims_lib.stages.segment: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
