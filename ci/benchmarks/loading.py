"""The share of its time that the trainer waits for pictures, and how fast scenes are drawn.

    python ci/benchmarks/loading.py

Waiting is measured with mini's settings: in one epoch of the baseline, in one with CLIMS's batches
and in 150 steps of the small CLIP. What needs torch is imported where it is used: every drawing
process reads this file before it starts.
"""

from __future__ import annotations

import sys
import time


class Timed:
    """Batches that add up the seconds in which somebody waited for them."""

    def __init__(self, batches):
        self.batches, self.waited = batches, 0.0

    def __call__(self, start):
        todo = iter(self.batches(start))
        while True:
            started = time.perf_counter()
            batch = next(todo, None)
            self.waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch


def waiting() -> list[dict]:
    """The share of an epoch in which the trainer has no batch yet."""
    from clims_lib import objectives, optimisers, training
    from clims_lib.batches import MemoryBatches
    from clims_lib.config import load_profile
    from clims_lib.data.splits import read_sizes, read_split
    from clims_lib.stages.untrained import new_network

    profile, rows = load_profile("mini"), []
    images, labels, _ = read_split(profile, "train")
    for name, size in (("CAM", profile.cam.batch), ("CLIMS's batches", profile.clims.batch)):
        batches = MemoryBatches(
            images,
            labels,
            None,
            size,
            0,
            read_sizes(profile, "train"),
            profile.augment.crop,
            profile.augment.resize,
        )
        model, timed = new_network(profile), Timed(batches)
        optimiser = optimisers.new_optimiser("adamw", model.parameters(), 1e-3, 1e-4)
        started = time.perf_counter()
        training.train(
            model, objectives.cam_loss(), timed, steps=batches.steps_per_epoch, optimiser=optimiser
        )
        total = time.perf_counter() - started
        rows.append(
            {
                "what": f"waiting for pictures, {name}",
                "share": timed.waited / total,
                "goal": 0.05,
                "training_s": total,
            }
        )
    return [*rows, waiting_of_clip(profile)]


def waiting_of_clip(profile, steps: int = 150) -> dict:
    """The same of the small CLIP, whose views are cut and described anew for every step."""
    from clims_lib import clip_model
    from clims_lib.stages import small_clip
    from clims_lib.training import train

    model, loss = small_clip.untrained_clip(profile), clip_model.contrastive_training_loss()
    batches = small_clip.CaptionBatches(profile, profile.clip.batch)
    for count in (3, steps):  # the first is to get warm
        timed = Timed(batches)
        optimiser, schedule = clip_model.clip_optimiser(model, count, profile.clip.lr)
        how = {"optimiser": optimiser, "schedule": schedule, "clip_norm": 1.0}
        started = time.perf_counter()
        train(model, loss, timed, steps=count, **how)
        total = time.perf_counter() - started
    return {
        "what": "waiting for captions' views, the small CLIP",
        "share": timed.waited / total,
        "goal": 0.05,
        "training_s": total,
    }


def drawing() -> list[dict]:
    """Scenes a second, the processes' start included."""
    from clims_lib.devices import cores
    from clims_lib.miniworld import world

    rows = []
    for processes in (1, cores()):
        for count in (500, 4000):
            started = time.perf_counter()
            world.make_corpus(7, count, processes=processes)
            rows.append(
                {
                    "what": f"{count} scenes drawn, processes: {processes}",
                    "scenes_s": count / (time.perf_counter() - started),
                }
            )
    return rows


def main() -> int:
    from pairs import keep

    keep("loading", waiting() + drawing(), "python ci/benchmarks/loading.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
