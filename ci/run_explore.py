"""Serves notebooks/explorers.ipynb as a page without code, by Voila: `clims explore`.

Opens no browser: the address is printed, and the page works in any browser that reaches it. Each
visitor has a kernel of their own, and the next one's is made ready in advance.
"""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from run_tutorial import ROOT, leave_out, prepare_kernels

from clims_lib.artifacts import atomic_path
from clims_lib.config import Profile, load_profile
from clims_lib.explore.cams import shown_methods
from clims_lib.stages.clip import missing
from clims_lib.stages.methods import row_of, trainers

SOURCE = ROOT / "notebooks" / "explorers.ipynb"


def run(profile: str, overrides: Sequence[str], port: int, ip: str) -> None:
    """Become Voila, once the page is written and its address said."""
    command = prepare(profile, overrides, port, ip)
    print(f"The explorers are at http://{ip}:{port}/ (Ctrl-C stops them)", flush=True)
    os.execv(command[0], command)


def prepare(profile: str, overrides: Sequence[str], port: int, ip: str) -> list[str]:
    """Write the profile's page and return Voila's command line.

    Raises ValueError when something is not trained yet, or when the port is taken.
    """
    settings = load_profile(profile, overrides)
    lacking = untrained(settings)
    if lacking:
        raise ValueError(
            f"{', '.join(lacking)}: not trained yet. Run ci/tutorial --profile {profile} first."
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as error:
            raise ValueError(
                f"port {port} of {ip} cannot be used ({error.strerror}): choose another with --port"
            ) from error
    prepare_kernels()
    return [
        sys.executable,
        "-m",
        "voila",
        str(write_page(settings, {"PROFILE": profile, "OVERRIDES": list(overrides)})),
        "--no-browser",
        f"--Voila.ip={ip}",
        f"--port={port}",
        "--Voila.log_level=WARN",
        "--preheat_kernel=True",
        "--pool_size=1",
    ]


def untrained(profile: Profile) -> list[str]:
    """Which of the networks that the explorers show are not there yet."""
    rows = shown_methods(profile).values()
    wanted = {name if name in trainers(profile) else row_of(name).maps for name in rows}
    if "clip" not in missing(profile):
        wanted.add("clip_finetuned")
    finished = {
        path.name.rpartition("-")[0]
        for path in (profile.outputs / "weights").glob("*-*")
        if not path.name.endswith(".partial")
    }
    return sorted(wanted - finished)


def write_page(profile: Profile, parameters: dict) -> Path:
    """The explorers' notebook with its parameters, without what cannot run here."""
    notebook = load_notebook_node(str(SOURCE))
    leave_out(notebook.cells, missing(profile))
    notebook = parameterize_notebook(notebook, parameters)
    path = profile.outputs / SOURCE.name
    with atomic_path(path) as temporary:
        nbformat.write(notebook, temporary)
    return path
