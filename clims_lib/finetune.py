"""Finetuning CLIP on the data set's class texts, as little as possible (paper, section 4.1).

CLIP never learned some of the names a data set uses ("person"). The published recipe trains both
towers by symmetric cross entropy on pictures and label texts. On pictures in which a class never
leaves its ground, that also ties the ground to the class. Notebook 01 measures both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clims_lib.batches import random_crops
from clims_lib.clip_model import (
    CLIP,
    autocast,
    contrastive_loss,
    encode_texts,
    hinge_loss,
    image_encoder,
    normalise_for_clip,
    same_text_matrix,
)
from clims_lib.devices import place


def text_parameters(model: CLIP) -> list[torch.nn.Parameter]:
    """The parameters of the text tower alone."""
    tower = [model.token_embedding, model.transformer, model.ln_final]
    return [p for part in tower for p in part.parameters()] + [
        model.positional_embedding,
        model.text_projection,
    ]


def in_clips_units(pictures: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) -> float in CLIP's units, on the device."""
    return normalise_for_clip(pictures.to(device).float() / 255)


@torch.no_grad()
def encode_pictures(model: CLIP, pictures: Tensor, amp: bool = True) -> Tensor:
    """uint8 (N, 3, H, W) -> CLIP's unit vectors (N, D), in memory."""
    encode, device = image_encoder(model), model.positional_embedding.device
    with autocast(device, amp):
        return torch.cat([encode(in_clips_units(p, device)).cpu() for p in pictures.split(256)])


def hinge_batches(
    seen: Tensor,
    labels: Tensor,
    size: int,
    seed: int,
    replay: Callable[[int], Iterable[tuple[Tensor, list[str]]]],
) -> Callable[[int], Iterator[tuple[Tensor, Tensor, Tensor, list[str]]]]:
    """Batches for `hinge_training_loss`: some of the `encode_pictures` and their labels, replay.

    replay(start) -> the batches, of steps start, start + 1, ..., of pictures and captions that CLIP
    knew before. Raises ValueError when pictures and labels are not equally many.
    """
    if len(seen) != len(labels):
        raise ValueError(f"{len(seen)} pictures have {len(labels)} rows of labels")

    def batches(start: int) -> Iterator[tuple[Tensor, Tensor, Tensor, list[str]]]:
        generator, known = torch.Generator().manual_seed(seed), iter(replay(start))
        for step in count():  # from the first: what was drawn before decides what comes
            some = torch.randint(len(seen), (size,), generator=generator)
            if step >= start:
                yield seen[some], labels[some], *next(known)

    return batches


def hinge_training_loss(class_texts: list[str], margin: float) -> Callable:
    """The hinge of the class texts and a contrastive loss of replayed captions, for
    `training.train`: the text tower learns, the image tower must not.

    The hinge is silent where a present class is `margin` ahead of an absent one; replay keeps what
    CLIP was taught. Raises ValueError when labels and texts disagree.
    """

    def loss(
        model: CLIP, batch: tuple[Tensor, Tensor, Tensor, list[str]], progress: float
    ) -> tuple[Tensor, dict]:
        seen, labels, known, captions = batch
        if labels.shape[1] != len(class_texts):
            raise ValueError(f"labels of {labels.shape[1]} classes, {len(class_texts)} texts")
        with torch.no_grad():
            known = image_encoder(model)(known)
        said = encode_texts(model, class_texts + captions)
        classes, replayed = said[: len(class_texts)], said[len(class_texts) :]
        with autocast(seen.device, False):
            hinge = hinge_loss(seen @ classes.T, labels, margin) / margin
            replay = contrastive_loss(known, replayed, model.logit_scale.exp())
        return hinge + replay, {}

    return loss


class Crops(NamedTuple):
    """Random crops that CLIP is shown in place of whole pictures; see `batches.random_crops`.

    device: where they are cut.
    """

    sizes: Tensor
    crop: int
    resize: Sequence[float]
    resize_of: str
    device: torch.device = torch.device("cpu")

    def of(self, pictures: Tensor, some: Tensor, windows: Tensor) -> Tensor:
        """Pictures uint8 (B, 3, S, S) with the numbers `some` -> uint8 (B, 3, crop, crop)."""
        cut, _ = random_crops(
            place(pictures, self.device).float() / 255,
            None,
            self.sizes[some],
            windows,
            crop=self.crop,
            resize=self.resize,
            resize_of=self.resize_of,
        )
        return (cut * 255).round().to(torch.uint8)


def label_batches(
    pictures: Tensor,
    labels: Tensor,
    class_texts: list[str],
    size: int,
    seed: int,
    *,
    sentence: Callable[[Tensor], str] | None = None,
    crops: Crops | None = None,
) -> Callable[[int], Iterator[tuple[Tensor, list[str]]]]:
    """Batches of pictures uint8 (size, 3, H, W) and, for each, the text of one of its classes.

    labels: (N, K). sentence, as in the camera-ready release: makes a text of all labels (K,) of a
    picture instead. Raises ValueError when a picture has no class.
    """
    if not bool((labels.sum(1) > 0).all()):
        raise ValueError("every picture needs at least one class")

    def batches(start: int) -> Iterator[tuple[Tensor, list[str]]]:
        generator = torch.Generator().manual_seed(seed)
        for step in count():
            some = torch.randint(len(pictures), (size,), generator=generator)
            if sentence is None:
                chosen = torch.multinomial(labels[some], 1, generator=generator)[:, 0].tolist()
            if crops:
                windows = torch.rand(size, 3, generator=generator)
            if step >= start:
                x = crops.of(pictures[some], some, windows) if crops else pictures[some]
                said = map(sentence, labels[some]) if sentence else (class_texts[k] for k in chosen)
                yield x, list(said)

    return batches


def label_training_loss(correct_shared: bool, directions: str = "mean") -> Callable:
    """The published recipe, for `training.train`: symmetric cross entropy of pictures and one of
    their label texts; both towers learn.

    correct_shared: whether pictures of a batch that share a text are left out of each other's
    softmax (published: they are false negatives). directions: the "mean" of the two cross entropies
    or, as released, their "sum", which doubles every step of SGD.
    """
    factor = {"mean": 1.0, "sum": 2.0}[directions]

    def loss(model: CLIP, batch: tuple[Tensor, list[str]], progress: float) -> tuple[Tensor, dict]:
        pictures, texts = batch
        seen = image_encoder(model)(in_clips_units(pictures, pictures.device))
        said = F.normalize(encode_texts(model, texts), dim=-1)
        same = same_text_matrix(texts).to(seen.device) if correct_shared else None
        with autocast(seen.device, False):
            return factor * contrastive_loss(seen, said, model.logit_scale.exp(), same), {}

    return loss
