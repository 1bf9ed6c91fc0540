"""What a step of each stage costs on a GPU: real networks, losses, optimisers on fake tensors.

Nothing is read: no data, no weights, no GPU. Sizes are the profile's; of CLIP they are OpenAI's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from clims_lib import cct_network, clip_model
from clims_lib.batches import augment
from clims_lib.clip_model import CLIP, autocast
from clims_lib.config import Profile
from clims_lib.costs import Cost, Counter, counting
from clims_lib.stages.clip import learning_of_finetuning, texts_of
from clims_lib.stages.criterion import new_loss
from clims_lib.stages.fully_supervised import learning_of_deeplab, new_deeplab
from clims_lib.stages.maps import maps_by
from clims_lib.stages.methods import METHODS, trainer_of
from clims_lib.stages.networks import crops_of, learning_of
from clims_lib.stages.semi_supervised import learning_of_cct, new_cct, normalise, perturbs
from clims_lib.stages.small_clip import learning_of_clip, small_clip
from clims_lib.stages.untrained import new_network, section_of
from clims_lib.stages.walk import WALKS
from clims_lib.stages.walk_ours import Ours, resize
from clims_lib.training import StepBatch, train

WALKED = 8  # pictures that walk together
PRESENT = 1.5  # classes of a picture: VOC's trainaug has 1.46
CLIP_SIZES: dict[str, tuple] = {  # OpenAI's: arguments of CLIP
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
}


def weightless(profile: Profile) -> Profile:
    """The same profile on fake tensors' device, with networks that start from no file."""
    return replace(profile, device="cpu", cam=replace(profile.cam, weights=""))


def blank_clip(profile: Profile) -> CLIP:
    """A CLIP of the profile's sizes; a checkpoint of another name is taken for a ViT-B/32."""
    sizes, s = CLIP_SIZES.get(profile.clip_checkpoint, CLIP_SIZES["ViT-B/32"]), profile.clip
    if s is not None and not profile.clip_checkpoint:
        text = (s.context, 49408, s.text_width, s.text_width // 64, s.text_layers)
        sizes = (s.embedding, profile.data.size, s.layers, s.width, None, *text)
    return CLIP(*sizes)


@contextmanager
def dry_run() -> Iterator[Counter]:
    """`counting`, after which no fake text stays in CLIP's memory of texts. Outlines of objects,
    for CCT's cut-outs, are found on the CPU: here there are none."""
    try:
        with mock.patch.object(cct_network, "contours_of", lambda scores: [[] for _ in scores]):
            with counting(PRESENT) as counter:
                yield counter
    finally:
        clip_model.forget_texts()


def trained(
    counter: Counter, model: torch.nn.Module, batch: Callable[[], StepBatch], how: dict
) -> Cost:
    """The second of two steps: the first makes the optimiser's state. batch() makes a batch; how:
    what `train` is handed besides."""

    def batches(start: int) -> Iterator[StepBatch]:
        yield batch()
        counter.restart()
        yield batch()

    train(model, batches=batches, **how | {"steps": 2, "steps_per_epoch": 2})
    return counter.cost


def crops(
    profile: Profile, size: int, masks: bool, form: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Pictures float (size, 3, crop, crop) and masks, cut from canvases as in training."""
    side = profile.data.size
    return augment(
        torch.empty((size, 3, side, side), dtype=torch.uint8),
        torch.empty((size, side, side), dtype=torch.uint8) if masks else None,
        torch.empty((size, 2), dtype=torch.int32),
        torch.empty(size, dtype=torch.bool),
        torch.empty(size, 3),
        **form,
    )


def some_labels(profile: Profile, size: int) -> Tensor:
    """Image-level labels (size, K)."""
    return torch.empty(size, len(profile.data.classes))


def cam_step(profile: Profile, method: str) -> Cost:
    """A step of one of METHODS."""
    profile, entry = weightless(profile), METHODS[method]
    section = section_of(profile, method)
    size, form = section.batch, crops_of(profile, section.crop)

    def batch() -> StepBatch:
        images, masks = crops(profile, size, "masks" in entry.needs, form)
        return images, some_labels(profile, size), masks

    with dry_run() as counter:
        model = new_network(profile, method)
        clip = blank_clip(profile).eval().requires_grad_(False) if "clip" in entry.needs else None
        how = {"loss": new_loss(profile, method, clip)}
        return trained(counter, model, batch, how | learning_of(profile, method, model, size, 1))


def finetune_step(profile: Profile) -> Cost:
    """A step of finetuning CLIP."""
    settings, texts = profile.finetune, texts_of(profile)
    size, cows = settings.batch, [f"{i} cows" for i in range(settings.replay)]
    with dry_run() as counter:
        model = blank_clip(profile)
        if settings.loss == "hinge":
            side = model.visual.input_resolution
            seen = torch.empty(size, model.text_projection.shape[1])
            known = torch.empty(len(cows), 3, side, side)
            batch: StepBatch = (seen, torch.empty(size, len(texts)), known, cows)
        else:
            side = settings.crop or profile.data.size
            some = [texts[i % len(texts)] for i in range(size)]
            batch = (torch.empty((size, 3, side, side), dtype=torch.uint8), some)
        return trained(counter, model, lambda: batch, learning_of_finetuning(profile, model))


def clip_step(profile: Profile) -> Cost:
    """A step of the small CLIP's training from captions."""
    settings, side = small_clip(profile), profile.data.size
    cows = [f"{i} cows" for i in range(settings.batch)]
    with dry_run() as counter:
        model, images = blank_clip(profile), torch.empty(settings.batch, 3, side, side)
        return trained(counter, model, lambda: (images, cows), learning_of_clip(profile, model))


def blank_walk(profile: Profile, name: str) -> Ours:
    """The profile's form of the walk, on a network that was not trained."""
    network = {"network": lambda self: new_network(self.profile, self.name).eval()}
    return type("Blank", (WALKS[profile.walk.form].head,), network)(profile, name)


def affinity_step(profile: Profile, name: str) -> Cost:
    """A step of learning the random walk's affinities of a network's maps."""
    profile, settings = weightless(profile), profile.walk
    ours, place, size = settings.form == "ours", settings.place, settings.batch
    side = profile.data.size if ours else settings.crop

    def batch() -> StepBatch:
        sure = torch.empty((size, side // place, side // place), dtype=torch.uint8)
        if ours:
            return torch.empty((size, 3, side, side), dtype=torch.uint8), sure
        return crops(profile, size, True, {"crop": side, "resize": settings.resize})[0], sure

    with dry_run() as counter:
        form = blank_walk(profile, name)
        head = form.new_head()
        return trained(
            counter, head, batch, WALKS[settings.form].learning(form, head) | {"amp": False}
        )


def deeplab_step(profile: Profile) -> Cost:
    """A step of DeepLab."""
    profile, settings = weightless(profile), profile.deeplab
    size, form = (
        settings.batch * settings.accumulate,
        {"crop": settings.crop, "resize": settings.resize},
    )

    def batch() -> StepBatch:
        images, masks = crops(profile, size, True, form)
        return images, some_labels(profile, size), masks

    with dry_run() as counter:
        model = new_deeplab(profile)
        return trained(counter, model, batch, learning_of_deeplab(profile, model, 1))


def cct_step(profile: Profile, method: str) -> Cost:
    """A step of one of the semi-supervised trainers."""
    profile, trainer = weightless(profile), trainer_of(profile, method)
    settings = profile.cct
    form = {"crop": settings.crop, "resize": settings.resize}

    def batch() -> StepBatch:
        images, masks = crops(profile, settings.batch_labelled, True, form)
        if not perturbs(trainer):
            return normalise(images), masks, None, None
        weak, pseudo = crops(profile, settings.batch_weak, trainer.pseudo, form)
        return normalise(images), masks, normalise(weak), pseudo

    with dry_run() as counter:
        model, generator = new_cct(profile, perturbs(trainer)), torch.Generator()
        return trained(counter, model, batch, learning_of_cct(profile, trainer, model, generator))


@torch.no_grad()
def maps_step(profile: Profile, method: str, size: tuple[int, int]) -> Cost:
    """The maps of a batch of canvases, or of a picture of this size where each is seen alone."""
    profile, how, side = weightless(profile), profile.inference, profile.data.size
    shape = (1, 3, *size) if how.seen == "picture" else (how.batch, 3, side, side)
    with dry_run() as counter:
        model = new_network(profile, method).eval()  # batch norms apart: fakes cannot be folded
        x = torch.empty(shape, dtype=torch.uint8).float() / 255
        counter.restart()
        maps_by(profile, method, model, x)
        return counter.cost


@torch.no_grad()
def walk_step(profile: Profile, name: str) -> Cost:
    """The random walk over a network's maps of WALKED pictures."""
    profile, side = weightless(profile), profile.data.size
    work: list[list[tuple[int, int]]] = []
    for times in (1, 2):  # each further time costs what the second does
        with dry_run() as counter:
            form = blank_walk(replace(profile, walk=replace(profile.walk, times=times)), name)
            head = form.new_head().eval()
            x = torch.empty((WALKED, 3, side, side), dtype=torch.uint8).float() / 255
            small = side // profile.inference.stride
            maps = torch.empty(WALKED, len(profile.data.classes), small, small)
            sizes = torch.empty((WALKED, 2), dtype=torch.int32)
            counter.restart()
            WALKS[profile.walk.form].walk(form, head, x, maps, sizes)
            work.append(list(counter.cost.work))
    once, twice = work
    again = twice[len(once) :] * max(0, profile.walk.times - 1)
    return Cost(counter.cost.peak, [*once, *again])


@torch.no_grad()
def predicting_step(profile: Profile) -> Cost:
    """What DeepLab or CCT says of a batch of pictures, whichever is more."""
    profile, side, amp = weightless(profile), profile.data.size, not profile.compute.full_precision
    found = []
    deeplab, cct = profile.deeplab, profile.cct
    networks = ((new_deeplab, deeplab.scales, deeplab.flip), (new_cct, (1.0,), cct.flip))
    for new, scales, flip in networks:
        with dry_run() as counter:
            model = new(profile).eval()
            x = torch.empty(profile.inference.batch, 3, side, side)
            counter.restart()
            for scale in scales:
                scaled = resize(x, torch.Size([round(scale * side)] * 2))
                for _ in range(1 + flip):  # and its mirror image
                    with autocast("cpu", amp):
                        resize(model(scaled).float().softmax(1), x.shape[-2:])
            found.append(counter.cost)
    return max(found, key=lambda cost: cost.flops)
