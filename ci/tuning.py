"""Tries declared grids of settings for each method on val, seed 0: `clims tuning`.

What is tried and chosen goes into data/results/<profile>_tuning.json; notebook 07 shows it. Each
trial is made of stages, so an interrupted run goes on where it stopped. `ci/results` takes the loss
weights of CORPORA from there; the others become settings of the profile, by hand.
"""

import torch
from everything import CORPORA, changed, corpus_settings
from run_results import CORES, side_by_side

from clims_lib.artifacts import rounded, write_json
from clims_lib.config import load_profile
from clims_lib.results.tables import commit, environment
from clims_lib.results.tuning import at_the_end, best_of, tuning_path, tuning_table
from clims_lib.stage import value_of
from clims_lib.stages.measures import measure

SPLIT, SEED = "val", 0
WEIGHTS = {
    "losses.weights.reg": (22.5, 45.0, 90.0, 180.0, 360.0, 720.0),
    "losses.weights.cbs": (2.0, 4.0, 8.0, 16.0, 32.0),
}
# {row: {setting: values}}. One setting moves at a time, the others are the profile's. Whoever has
# weights of a loss to choose has them chosen from as many runs, whatever it is called.
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "cam": {"cam.lr": (0.0005, 0.001, 0.002, 0.004, 0.008)},
    "cam_area": {"cam.area_weight": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)},
    "puzzle_cam": {"puzzle.alpha": (0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 1.0, 4.0)},
    "cct": {"cct.unsupervised_weight": (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)},
    "clims": WEIGHTS,
    "clims_whole_pictures": WEIGHTS,
    "clims_random_blobs": WEIGHTS,
    "clims_blurred": WEIGHTS,
}


def run(profile: str, jobs: int | None = None) -> int:
    """Try all grids and print the table; return 1, writing nothing, where a trial failed.

    jobs: trials at a time, 2 by default.
    """
    settings = load_profile(profile)
    planned = {row: trials(profile, row) for row in GRIDS}
    tasks = {  # in turns: two trials that need the same CLIP would wait for it
        (row, i): (trial, profile, row, planned[row][i])
        for i in range(max(map(len, planned.values())))
        for row in GRIDS
        if i < len(planned[row])
    }
    found = side_by_side(tasks, jobs or min(2, CORES), "trials")
    if len(found) < len(tasks):
        return 1
    tried = {row: [found[row, i] for i in range(len(planned[row]))] for row in GRIDS}
    about = {"environment": environment("cpu"), "commit": commit()}
    chosen = {row: best_of(some) for row, some in tried.items()}
    tuning = {"tried": rounded(tried), "chosen": chosen} | about
    write_json(tuning_path(settings), tuning)
    print(tuning_table(tuning))
    for row, some in tried.items():
        for name in at_the_end(some):
            print(f"{row}: {name} is best at an end of its grid: add values to GRIDS")
    return 0


def trials(profile: str, row: str) -> list[dict[str, float]]:
    """The settings of every trial of a row: the profile's, then each with one value changed."""
    settings, grid = load_profile(profile), GRIDS[row]
    own = {name: float(value_of(settings, name)) for name in grid}
    moved = [own | {name: value} for name, values in grid.items() for value in values]
    return [own, *(changes for changes in moved if changes != own)]


def trial(profile: str, row: str, settings: dict[str, float], threads: int) -> dict:
    """What a row is worth on SPLIT with some settings; trained now when it is not there yet."""
    torch.set_num_threads(threads)
    on = {"data.evaluated": [SPLIT]}
    one = changed(profile, SEED, corpus_settings(row) | settings | on)
    (found,) = measure(one, "clims" if row in CORPORA else row)
    return {"settings": settings, "split": SPLIT, "seed": SEED, "miou": found["miou"]}
