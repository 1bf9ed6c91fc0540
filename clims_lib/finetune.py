"""Finetuning CLIP on the data set's class texts, as little as possible (paper, section 4.1).

CLIP never learned some of the names a data set uses ("person"). The published recipe trains both
towers by symmetric cross entropy on pictures and label texts. On pictures in which a class never
leaves its ground, that also ties the ground to the class. Notebook 01 measures both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from clip.model import CLIP
from torch import Tensor

from clims_lib.clip_model import (
    autocast,
    contrastive_loss,
    encode_texts,
    hinge_loss,
    image_encoder,
    normalise_for_clip,
    same_text_matrix,
)


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


def finetune_text_tower(
    model: CLIP,
    pictures: Tensor,
    labels: Tensor,
    class_texts: list[str],
    replay: Callable[[int], tuple[Tensor, list[str]]],
    *,
    steps: int,
    lr: float,
    margin: float,
    batch_size: int,
    generator: torch.Generator,
    amp: bool = True,
    progress: Callable[..., object] | None = None,
) -> list[float]:
    """Teach the text tower the class texts with a hinge, replaying captions; returns the losses.

    pictures: uint8 (N, 3, H, W); labels: (N, K). The image tower does not change, so every picture
    is encoded once. replay(step) -> a batch of pictures and captions that CLIP knew before: what it
    was taught must not be lost. The hinge is silent where a present class is
    `margin` ahead of an absent one. Raises ValueError when labels and texts disagree.
    """
    if labels.shape != (len(pictures), len(class_texts)):
        raise ValueError(
            f"labels {tuple(labels.shape)} must be ({len(pictures)}, {len(class_texts)})"
        )
    encode, device = image_encoder(model), model.positional_embedding.device
    model.eval().requires_grad_(False)
    with torch.no_grad(), autocast(device, amp):
        seen = torch.cat([encode(in_clips_units(p, device)) for p in pictures.split(256)])
    labels = labels.to(device)
    parameters = text_parameters(model)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(parameters, lr=lr, fused=True)
    losses = []
    for step in range(steps):
        some = torch.randint(len(seen), (batch_size,), generator=generator).to(device)
        known, captions = replay(step)
        with torch.no_grad(), autocast(device, amp):
            known = encode(known.to(device))
        with autocast(device, amp):
            said = encode_texts(model, class_texts + captions)
        classes, replayed = said[: len(class_texts)], said[len(class_texts) :]
        loss = hinge_loss(seen[some] @ classes.T, labels[some], margin) / margin
        loss = loss + contrastive_loss(known, replayed, model.logit_scale.exp())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if progress:
            progress(loss=losses[-1])
    model.requires_grad_(False)
    return losses


def finetune_both_towers(
    model: CLIP,
    pictures: Tensor,
    labels: Tensor,
    class_texts: list[str],
    *,
    steps: int,
    lr: float,
    batch_size: int,
    weight_decay: float,
    correct_shared: bool,
    generator: torch.Generator,
    amp: bool = True,
    progress: Callable[..., object] | None = None,
) -> list[float]:
    """The published recipe: symmetric cross entropy of pictures and one of their label texts.

    SGD with momentum 0.9 and cosine decay. correct_shared: whether pictures of a batch that share
    a text are left out of each other's softmax (published: they are false negatives).
    pictures uint8 (N, 3, H, W); labels (N, K), at least one class each.
    """
    if not bool((labels.sum(1) > 0).all()):
        raise ValueError("every picture needs at least one class")
    device = model.positional_embedding.device
    encode = image_encoder(model)
    model.requires_grad_(True)
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = []
    for _ in range(steps):
        some = torch.randint(len(pictures), (batch_size,), generator=generator)
        chosen = torch.multinomial(labels[some], 1, generator=generator)[:, 0].tolist()
        texts = [class_texts[k] for k in chosen]
        with autocast(device, amp):
            seen = encode(in_clips_units(pictures[some], device))
            said = F.normalize(encode_texts(model, texts), dim=-1)
        same = same_text_matrix(texts).to(device) if correct_shared else None
        loss = contrastive_loss(seen, said, model.logit_scale.exp(), same)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if progress:
            progress(loss=losses[-1])
    model.eval().requires_grad_(False)
    return losses
