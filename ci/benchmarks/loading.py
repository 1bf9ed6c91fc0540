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

    def __call__(self, epoch):
        todo = self.batches(epoch)
        outer = self

        class One:
            def __len__(self):
                return len(todo)

            def __iter__(self):
                found = iter(todo)
                while True:
                    started = time.perf_counter()
                    batch = next(found, None)
                    outer.waited += time.perf_counter() - started
                    if batch is None:
                        return
                    yield batch

        return One()


def waiting() -> list[dict]:
    """The share of an epoch in which the trainer has no batch yet."""
    from clims_lib import batches, objectives, training
    from clims_lib.config import load_profile
    from clims_lib.data.splits import read_sizes, read_split
    from clims_lib.stages.networks import new_network

    profile, rows = load_profile("mini"), []
    images, labels, _ = read_split(profile, "train")
    for name, size in (("CAM", profile.cam.batch), ("CLIMS's batches", profile.clims.batch)):
        batches = Timed(
            batches.MemoryBatches(
                images,
                labels,
                None,
                size,
                0,
                read_sizes(profile, "train"),
                profile.augment.crop,
                profile.augment.resize,
            )
        )
        started = time.perf_counter()
        training.train(new_network(profile), objectives.cam_loss(), batches, epochs=1, lr=1e-3)
        total = time.perf_counter() - started
        rows.append(
            {
                "what": f"waiting for pictures, {name}",
                "share": batches.waited / total,
                "goal": 0.05,
                "training_s": total,
            }
        )
    return [*rows, waiting_of_clip(profile)]


def waiting_of_clip(profile, steps: int = 150) -> dict:
    """The same of the small CLIP, whose views are cut and described anew for every step."""
    from clims_lib import clip_model
    from clims_lib.stages import clip

    model, waited = clip.untrained_clip(profile), 0.0
    batches, lr = clip.CaptionBatches(profile, profile.clip.batch), profile.clip.lr

    def batch(step: int):
        nonlocal waited
        started = time.perf_counter()
        found = batches(step)
        waited += time.perf_counter() - started
        return found

    clip_model.train_clip(model, batches, steps=3, lr=lr)  # warm
    started = time.perf_counter()
    clip_model.train_clip(model, batch, steps=steps, lr=lr)
    total = time.perf_counter() - started
    return {
        "what": "waiting for captions' views, the small CLIP",
        "share": waited / total,
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
