"""What a profile's run makes, in the order of the notebooks: steps, memory, hours, disk.

Steps and disk follow from the profile and the lists of pictures, memory and hours from a step of
each stage on fake tensors (steps.py). So it needs no data, no weights and no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from clims_lib.batches import epoch_of
from clims_lib.config import Profile
from clims_lib.costs import Cost, counting
from clims_lib.data.splits import PARTS, open_split, split_folder
from clims_lib.results import steps
from clims_lib.stage import value_of
from clims_lib.stages.clip import finetune_clip, make_clip, strong_finetuning
from clims_lib.stages.fully_supervised import new_deeplab
from clims_lib.stages.maps import looked_at, network_cams
from clims_lib.stages.masks import make_pseudo_masks
from clims_lib.stages.methods import METHODS, WALK, needs_clip, pseudo_row, row_of, trainers
from clims_lib.stages.networks import epochs_of, train_cam
from clims_lib.stages.segmentations import make_segmentations, train_network
from clims_lib.stages.semi_supervised import new_cct, perturbs
from clims_lib.stages.sure_labels import make_sure_labels
from clims_lib.stages.untrained import new_network, section_of
from clims_lib.stages.walk import train_affinity, walk_cams

PHOTOGRAPH = (375, 500)  # pixels, of most of VOC's pictures
PNG = 0.04  # bytes a pixel, of a mask
DRAWN = 8000  # bytes a picture of MiniWorld, its masks included
# Of a photograph at one threshold, VOC's kernels, on one CPU core. A GPU's are not known.
CRF_SECONDS = 0.5
OUTLINE_SECONDS = 0.016  # of a weak picture, which CCT's released cut-out follows on the CPU

Stage = tuple[str, Callable[[], object]]  # its folder without the key, "weights/cam"; what makes it


@dataclass(frozen=True)
class Planned:
    """Stages to come that belong together.

    disk: bytes that they leave; steps, and what each costs; seconds: of what is not counted by
    steps; needs: what must be there before.
    """

    name: str
    makes: Sequence[Stage]
    disk: float
    steps: int = 0
    cost: Callable[[], Cost] | None = None
    needs: str = ""
    seconds: float = 0.0


def planned(profile: Profile) -> list[Planned]:
    """All that the notebooks make, in their order."""
    count, ours = pictures_of(profile), row_of(profile.pseudo.method).method
    methods = list(dict.fromkeys(("cam", "puzzle_cam", "clims", ours)))
    found = [_splits(profile, count), *_clips(profile)]
    found += [_training(profile, method, count["train"]) for method in methods]
    found += [_maps(profile, method, count, method == ours) for method in methods]
    found += [*_walk(profile, ours, count), _masks(profile, ours, count)]
    # the longest of CCT's first, as in the notebook; DeepLab's before them
    own = {name: one for name, one in trainers(profile).items() if not one.control}
    names = sorted(own, key=lambda name: own[name].section != "deeplab")
    found += [_segmenter(profile, name, count) for name in names]
    return [*found, _segmentations(profile, names, count)]


def pictures_of(profile: Profile) -> dict[str, int]:
    """{split: how many pictures}: of the lists, or what the profile says where there are none."""
    data = profile.data
    found = {"train": data.train, "val": data.val, "test": data.test}
    found |= {"train_labelled": data.labelled, "train_weak": max(0, data.train - data.labelled)}
    if (profile.data_root / "JPEGImages").is_dir():
        try:
            splits = ("train", "train_labelled", "train_weak", "val", *data.evaluated)
            found |= {split: len(open_split(profile, split, labels=False)) for split in splits}
        except (OSError, ValueError):  # not yet as it is going to be
            pass
    return found


# ---- Stage by stage -----------------------------------------------------------------------------


def _splits(profile: Profile, count: dict[str, int]) -> Planned:
    splits = dict.fromkeys(
        ("train", *profile.data.evaluated, "train_labelled", "train_weak", "val")
    )
    kinds = ("images", "labels", "masks")
    makes: list[Stage] = [
        (f"splits/{split}_{kind}", partial(split_folder, profile, split, kind))
        for split in splits
        for kind in kinds
    ]
    canvas = 4 * profile.data.size**2  # colours and mask
    stored = [split for split in splits if split not in PARTS]  # these are rows of train
    return Planned("splits", makes, canvas * sum(count[split] for split in stored), needs="data")


def _clips(profile: Profile) -> list[Planned]:
    """CLIP, finetuned, and once more as notebook 01 does it for comparison."""
    drawn = profile.clip if not profile.clip_checkpoint else None
    with counting():
        size = sum(p.numel() for p in steps.blank_clip(profile).parameters()) * 2  # half precision
    made = ("weights/clip", partial(make_clip, profile))
    found = [
        Planned("clip", [made], size, needs="CLIP's weights")
        if drawn is None
        else Planned("clip", [made], size, drawn.steps, partial(steps.clip_step, profile))
    ]
    tuned = [("clip_finetuned", profile)] if profile.finetune.loss != "none" else []
    for name, p in (*tuned, ("  for comparison", strong_finetuning(profile))):
        cost, stage = partial(steps.finetune_step, p), partial(finetune_clip, p)
        makes: list[Stage] = [("weights/clip_finetuned", stage)]
        found.append(Planned(name, makes, size, p.finetune.steps, cost, "clip, splits"))
    return found


def _training(profile: Profile, method: str, pictures: int) -> Planned:
    entry, batch = METHODS[method], section_of(profile, method).batch
    epochs = value_of(profile, epochs_of(method))
    with counting():
        size = _bytes_of(new_network(steps.weightless(profile), method))
    side, kept = profile.data.size // profile.cam.stride, profile.data.studied
    size += 2 * epochs * kept * len(profile.data.classes) * side**2  # maps through time
    needs = [
        entry.start or {"": "splits", "imagenet": "ImageNet's"}.get(profile.cam.weights, "weights")
    ]
    needs += [found_clip(profile)] if needs_clip(profile, method) else []
    return Planned(
        method,
        [(f"weights/{method}", partial(train_cam, profile, method))],
        size,
        epochs * epoch_of(pictures, batch, profile.augment.drop_last)[1],
        partial(steps.cam_step, profile, method),
        ", ".join(needs),
    )


def found_clip(profile: Profile) -> str:
    """The row of the CLIP that CLIMS asks."""
    return "clip" if profile.finetune.loss == "none" else "clip_finetuned"


def _maps(profile: Profile, method: str, count: dict[str, int], ours: bool) -> Planned:
    """Of the evaluated pictures and train's that thresholds look at; ours: of those that
    affinities learn from, too, and of all, for masks."""
    looked = looked_at(profile)
    more = [max(looked, profile.walk.pictures), count["train"]] if ours else []
    parts = _parts(profile, count, [looked, *more])
    makes = [(f"cams/{method}_{s}", partial(network_cams, profile, method, s, n)) for s, n in parts]
    pictures = sum(n for _, n in parts)
    together = 1 if profile.inference.seen == "picture" else profile.inference.batch
    return Planned(
        f"maps of {method}",
        makes,
        pictures * _bytes_of_maps(profile),
        sum(-(-n // together) for _, n in parts),
        partial(steps.maps_step, profile, method, _size(profile)),
        method,
    )


def _walk(profile: Profile, ours: str, count: dict[str, int]) -> list[Planned]:
    settings, name, needs = profile.walk, f"{ours}{WALK}", f"maps of {ours}"
    whole = [count["train"]] if row_of(profile.pseudo.method).walk else []
    parts = _parts(profile, count, [looked_at(profile), *whole])
    makes = [(f"cams/{name}_{s}", partial(walk_cams, profile, ours, s, n)) for s, n in parts]
    pictures, learn_from = sum(n for _, n in parts), min(settings.pictures, count["train"])
    learned: list[Stage] = [(f"weights/{name}", partial(train_affinity, profile, ours))]
    if settings.form != "ours":
        sure = f"pseudo_masks/{ours}_sure_train", partial(make_sure_labels, profile, ours)
        learned.insert(0, sure)
    with counting():
        size = _bytes_of(steps.blank_walk(steps.weightless(profile), ours).new_head())
    return [
        Planned(
            f"affinities of {ours}",
            learned,
            size + (len(learned) - 1) * learn_from * _bytes_of_mask(profile),
            settings.steps,
            partial(steps.affinity_step, profile, ours),
            needs,
            2 * learn_from * CRF_SECONDS * _share(profile),  # at both thresholds
        ),
        Planned(
            f"maps of {name}",
            makes,
            pictures * _bytes_of_maps(profile),
            -(-pictures // steps.WALKED),
            partial(steps.walk_step, profile, ours),
            f"{needs}, affinities",
        ),
    ]


def _masks(profile: Profile, ours: str, count: dict[str, int]) -> Planned:
    """Masks of the evaluated pictures, before and after the CRF; of train those to learn from."""
    rows = [
        f"{m}{crf}" for m in dict.fromkeys(("cam", ours, f"{ours}{WALK}")) for crf in ("", "_crf")
    ]
    wanted = [(row, split) for row in rows for split in profile.data.evaluated]
    wanted.append((pseudo_row(profile), "train"))
    makes = [
        (f"pseudo_masks/{row}_{split}", partial(make_pseudo_masks, profile, row, split))
        for row, split in wanted
    ]
    refined = sum(count[split] for row, split in wanted if row_of(row).crf)
    refined += 3 * min(profile.crf.chosen_on, count["train"]) * len(profile.crf.thresholds)
    pictures = sum(count[split] for _, split in wanted)
    seconds = refined * CRF_SECONDS * _share(profile)
    return Planned(
        "masks", makes, pictures * _bytes_of_mask(profile), needs="maps", seconds=seconds
    )


def _segmenter(profile: Profile, name: str, count: dict[str, int]) -> Planned:
    """One of the trainers."""
    trainer, blank = trainers(profile)[name], steps.weightless(profile)
    named = {"cam": "cam", "imagenet": "ImageNet's", "random": "splits"}
    needs = named[getattr(profile, trainer.section).start] + ", masks" * trainer.pseudo
    makes: list[Stage] = [(f"weights/{name}", partial(train_network, profile, name))]
    if trainer.section == "deeplab":
        number, cost = profile.deeplab.steps, partial(steps.deeplab_step, profile)
        new = new_deeplab
    else:
        number, cost = profile.cct.steps, partial(steps.cct_step, profile, name)
        new = new_cct  # type: ignore[assignment]
    with counting():
        size = _bytes_of(new(blank))
    return Planned(name, makes, size, number, cost, needs, _outlines(profile, name))


def _outlines(profile: Profile, name: str) -> float:
    """The seconds that a trainer's cut-outs need for outlines: fakes have none."""
    trainer, cct = trainers(profile)[name], profile.cct
    follows = cct.cutout_rule == "released" and dict(cct.auxiliary).get("guided_cutout", 0) > 0
    if trainer.section != "cct" or not perturbs(trainer) or not follows:
        return 0.0
    return cct.steps * cct.batch_weak * OUTLINE_SECONDS


def _segmentations(profile: Profile, names: Sequence[str], count: dict[str, int]) -> Planned:
    splits, batch = profile.data.evaluated, profile.inference.batch
    makes = [
        (f"segmentations/{name}_{split}", partial(make_segmentations, profile, name, split))
        for name in names
        for split in splits
    ]
    pictures = len(names) * sum(count[split] for split in splits)
    number = len(names) * sum(-(-count[split] // batch) for split in splits)
    cost = partial(steps.predicting_step, profile)
    disk = pictures * _bytes_of_mask(profile)
    refined = sum(count[split] for split in splits) * (profile.deeplab.crf.iterations > 0)
    seconds = refined * CRF_SECONDS * _share(profile)
    return Planned("segmentations", makes, disk, number, cost, "deeplab, cct", seconds)


def _parts(profile: Profile, count: dict[str, int], train: Iterable[int]) -> list[tuple[str, int]]:
    """(split, of how many of its pictures) maps are made: all evaluated ones, some of train."""
    numbers = sorted({min(n, count["train"]) for n in train})
    return [(s, count[s]) for s in profile.data.evaluated] + [("train", n) for n in numbers]


def _share(profile: Profile) -> float:
    """How large pictures are beside VOC's."""
    height, width = _size(profile)
    return height * width / (PHOTOGRAPH[0] * PHOTOGRAPH[1])


def _size(profile: Profile) -> tuple[int, int]:
    drawn = profile.data.source == "miniworld"
    return (profile.data.size, profile.data.size) if drawn else PHOTOGRAPH


def _bytes_of_maps(profile: Profile) -> float:
    height, width = (-(-side // profile.inference.stride) for side in _size(profile))
    return steps.PRESENT * 2 * height * width + 600


def _bytes_of_mask(profile: Profile) -> float:
    height, width = _size(profile)
    return PNG * height * width + 300


def _bytes_of(model: torch.nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())
