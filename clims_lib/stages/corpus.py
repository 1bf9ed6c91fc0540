"""The stage of the corpus's classifiers: is it language, or 24,000 more scenes?

CLIMS is taught by a CLIP that saw a corpus in which objects stand away from home and alone. A
classifier that saw it needs no language to tell train from railroad. So here is one: the same views
in the same batches, the same number of steps, learning rate and optimiser as the small CLIP's, and
of each caption the same nouns, objects and grounds alike. Each is a class, "man" and "girl" one and
the same, which CLIP is not told. It is trained as the baseline is, by binary cross entropy of its
pooled maps.

`cam_corpus` has the network that CLIMS segments with, `cam_corpus_tower` the image tower of CLIP,
with a 1x1 head in place of the attention pooling. Of their maps those of the objects are used, at
thresholds chosen on train. They do not learn from train, whose labels say again that a railroad is
a train: that is the stronger opponent, we think. As CLIMS did learn from these labels, there is
`cam_corpus_train`, too: `cam_corpus`, trained further as the baseline is. The claim (claims.py) is
held against the best of the three.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from clims_lib import clip_model
from clims_lib.artifacts import save_tensors, write_json
from clims_lib.config import Profile
from clims_lib.devices import device_of
from clims_lib.miniworld.scene import CLASSES, GROUNDS, NOUNS
from clims_lib.stage import make_once, resuming
from clims_lib.stages.first_weights import first_weights
from clims_lib.stages.methods import METHODS
from clims_lib.stages.small_clip import CaptionBatches, small_clip
from clims_lib.stages.untrained import NETWORK, OF_CAM, code_of_network, new_network
from clims_lib.training import train

THINGS = (*CLASSES, *GROUNDS)  # what captions name, by any of their nouns
NUMBERS = {noun: k for k, name in enumerate(THINGS) for noun in NOUNS.get(name, (name,))}


def named_things(captions: list[str]) -> Tensor:
    """float (B, T) in {0, 1}: which of THINGS each caption names."""
    labels = torch.zeros(len(captions), len(THINGS))
    for row, caption in zip(labels, captions, strict=True):
        row[[NUMBERS[word] for word in caption.split() if word in NUMBERS]] = 1
    return labels


class NounBatches:
    """The small CLIP's batches for a classifier: pictures in [0, 1] and which things they name."""

    def __init__(self, profile: Profile):
        self.captioned = CaptionBatches(profile, small_clip(profile).batch)

    def __call__(self, start: int) -> Iterator[tuple[Tensor, Tensor, None]]:
        """The batches of steps start, start + 1, ..., without end."""
        mean, std = (
            torch.tensor(v).view(3, 1, 1) for v in (clip_model.CLIP_MEAN, clip_model.CLIP_STD)
        )
        for views, captions in self.captioned(start):
            yield views * std + mean, named_things(captions), None


def train_on_corpus(profile: Profile, method: str) -> Path:
    """Train a classifier of the caption corpus; returns the folder of weights and history.json.

    method: an entry of METHODS that needs "captions". Of its head the weights of the profile's
    classes are kept. Raises ValueError for a profile without a section [clip], and for a class that
    no caption names.
    """
    entry, settings, device = METHODS[method], small_clip(profile), device_of(profile)

    def make(folder: Path) -> None:
        unknown = [name for name in profile.data.classes if name not in CLASSES]
        if unknown:
            said = ", ".join(unknown)
            raise ValueError(f"no caption names {said}: {method} is for {CLASSES} only")
        model = new_network(profile, method, len(THINGS)).to(device)
        model = model.to(memory_format=torch.channels_last)
        optimiser, schedule = clip_model.clip_optimiser(model, settings.steps, settings.lr)
        title = "classifier of the corpus"
        with resuming(folder, title, settings.steps, device, "lower clip.batch") as how:
            history = train(
                model,
                entry.loss(),
                NounBatches(profile),
                optimiser=optimiser,
                schedule=schedule,
                clip_norm=1.0,
                amp=not profile.compute.full_precision,
                **how,
            )
        write_json(folder / "history.json", [step["loss"] for step in history])
        weights = model.state_dict()
        own = [THINGS.index(name) for name in profile.data.classes]
        save_tensors(
            folder / "weights.safetensors", weights | {"head.weight": weights["head.weight"][own]}
        )

    trained = ["clip.batch", "clip.steps", "clip.lr", "clip.cutouts", "data.captions", "data.size"]
    return make_once(
        profile,
        "weights",
        method,
        make,
        settings=[*NETWORK, *OF_CAM, *trained, *["clip"] * bool(entry.tower)]
        + ["compute.full_precision"],
        inputs={"first weights": first_weights(profile)},
        code=[entry.loss, *code_of_network(method)],
    )
