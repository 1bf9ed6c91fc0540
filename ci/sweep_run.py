"""Executes one run of a sweep: python ci/sweep_run.py FOLDER [CORE,CORE]

FOLDER holds the run.json that ci/sweep wrote. The run ends with a results.json or a failed.json
beside it; notebooks that an earlier attempt finished are kept.
"""

import os
import sys
import threading
import time
from functools import partial
from pathlib import Path

PARENT = os.getppid()  # asked before the imports, which take seconds
os.environ["TQDM_DISABLE"] = "1"  # runs side by side would write bars over each other's

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # wherever a worker starts it

from filelock import FileLock  # noqa: E402
from run_tutorial import choose, execute, find_notebooks, is_finished, prepare_kernels, state_of  # noqa: E402
from sweep_table import FAILED, RESULTS, RUN, status_of  # noqa: E402

from clims_lib.artifacts import read_json, write_json  # noqa: E402
from clims_lib.config import load_profile  # noqa: E402
from clims_lib.results.tables import gather_results  # noqa: E402
from clims_lib.stages.clip import missing  # noqa: E402


def main(folder: Path, cores: str = "") -> None:
    if cores and hasattr(os, "sched_setaffinity"):  # stages and torch use as many as they may
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    threading.Thread(target=end_with_parent, daemon=True).start()
    with FileLock(folder / ".lock"):  # a cluster's worker may be at it for a sweep now dead
        if status_of(folder) != "finished":
            run_notebooks(folder, read_json(folder / RUN))


def end_with_parent() -> None:
    """End this process, and so its kernel, when the one that started it ends, be it by kill -9."""
    while os.getppid() == PARENT:
        time.sleep(0.5)
    os._exit(1)


def run_notebooks(folder: Path, run: dict) -> None:
    """Execute the run's notebooks into its folder and write what they measured, or the error."""
    (folder / FAILED).unlink(missing_ok=True)
    parameters, everything = run["parameters"], find_notebooks(Path(run["notebooks"]))
    profile = load_profile(parameters["PROFILE"], parameters["OVERRIDES"])
    started = time.time()
    try:
        for notebook in choose(everything, run["only"]):
            absent = missing(profile)
            state = partial(state_of, notebook, everything, parameters, absent)
            executed = folder / notebook.path.name
            if not is_finished(executed, state()):
                execute(notebook, executed, parameters, state, absent)
        results = gather_results(folder / "metrics")
    except Exception as error:
        stopped = next((str(path) for path in folder.glob("*.unfinished.ipynb")), "")
        write_json(
            folder / FAILED,
            {
                "seconds": round(time.time() - started, 1),
                "error": ": ".join(str(error).splitlines()[:2]),
                "notebook": stopped,
            },
        )
        return
    seconds = sum(read_json(file)["seconds"] for file in (folder / "metrics").glob("*.json"))
    write_json(folder / RESULTS, results | {"seconds": round(seconds, 1)})


if __name__ == "__main__":
    prepare_kernels()
    main(Path(sys.argv[1]), *sys.argv[2:])
