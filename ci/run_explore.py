"""Serves notebooks/explorers.ipynb as a page without code, by Voila; `ci/explore` calls it.

Opens no browser: the address is printed, and the page works in any browser that reaches it. Each
visitor has a kernel of their own, and the next one's is made ready in advance.
"""

import argparse
import os
import socket
import sys
from pathlib import Path

import nbformat
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from run_tutorial import ROOT, leave_out, prepare_kernels

from clims_lib.artifacts import atomic_path
from clims_lib.config import Profile, load_profile
from clims_lib.explore.cams import shown_methods
from clims_lib.stages.clip import missing

SOURCE = ROOT / "notebooks" / "explorers.ipynb"


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        command = prepare(options)
    except ValueError as error:
        print(f"ci/explore: {error}", file=sys.stderr)
        return 1
    address = f"http://{options.ip}:{options.port}/"
    print(f"The explorers are at {address} (Ctrl-C stops them)", flush=True)
    os.execv(command[0], command)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ci/explore", description=__doc__.split(";")[0] + ".", allow_abbrev=False
    )
    parser.add_argument(
        "--profile",
        default="mini",
        help="name in clims_lib/profiles or a .toml file (default: mini)",
    )
    parser.add_argument("--port", type=int, default=8866, help="default: 8866")
    parser.add_argument(
        "--ip",
        default="127.0.0.1",
        help="0.0.0.0 lets other machines of the room in (default: this one only)",
    )
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace) -> list[str]:
    """Write the profile's page and return Voila's command line.

    Raises ValueError when something is not trained yet, or when the port is taken.
    """
    named = options.profile
    if named.endswith(".toml"):  # kernels start beside the page, not where we are
        named = str(Path(named).resolve())
    profile = load_profile(named)
    lacking = untrained(profile)
    if lacking:
        raise ValueError(
            f"{', '.join(lacking)}: not trained yet. Run ci/tutorial --profile "
            f"{options.profile} first."
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.ip, options.port))
        except OSError as error:
            raise ValueError(
                f"port {options.port} of {options.ip} cannot be used "
                f"({error.strerror}): choose another with --port"
            ) from error
    prepare_kernels()
    return [
        sys.executable,
        "-m",
        "voila",
        str(write_page(profile, named)),
        "--no-browser",
        f"--Voila.ip={options.ip}",
        f"--port={options.port}",
        "--Voila.log_level=WARN",
        "--preheat_kernel=True",
        "--pool_size=1",
    ]


def untrained(profile: Profile) -> list[str]:
    """Which of the networks that the explorers show are not there yet."""
    wanted = {method for method, _ in shown_methods(profile).values()}
    if "clip" not in missing(profile):
        wanted.add("clip_finetuned")
    finished = {
        path.name.rpartition("-")[0]
        for path in (profile.outputs / "weights").glob("*-*")
        if not path.name.endswith(".partial")
    }
    return sorted(wanted - finished)


def write_page(profile: Profile, named: str) -> Path:
    """The explorers' notebook with its parameters, without what cannot run here."""
    notebook = load_notebook_node(str(SOURCE))
    leave_out(notebook.cells, missing(profile))
    notebook = parameterize_notebook(notebook, {"PROFILE": named})
    path = profile.outputs / SOURCE.name
    with atomic_path(path) as temporary:
        nbformat.write(notebook, temporary)
    return path


if __name__ == "__main__":
    sys.exit(main())
