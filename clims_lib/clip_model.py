"""CLIP: loading, encoding, what the small one is trained with, what finetuning compares.

The small CLIP is an instance of `clip.model.CLIP`, saved as a state dict and read by `clip.load`,
so the lines that run on it are the lines that run on OpenAI's. Notebook 01 tells the story.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor

with warnings.catch_warnings():
    # clip still imports pkg_resources, which complains about that with a path of this very machine
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    import clip
    from clip.model import CLIP, convert_weights

from clims_lib.devices import place

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own normalisation (clip.clip._transform)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def new_clip(
    *,
    resolution: int,
    layers: tuple[int, ...],
    width: int,
    embed_dim: int,
    text_width: int,
    text_layers: int,
    context_length: int,
    seed: int,
) -> CLIP:
    """A freshly initialised small CLIP with the real architecture (modified ResNet + transformer).

    resolution must be a multiple of 32 (five halvings) and text_width one of 64 (heads of 64).
    """
    if resolution % 32 or text_width % 64:
        raise ValueError("resolution must be a multiple of 32, text_width a multiple of 64")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIP(
            embed_dim,
            resolution,
            tuple(layers),
            width,
            None,
            context_length,
            49408,
            text_width,
            text_width // 64,
            text_layers,
        ).float()


def save_clip(model: CLIP, path: Path) -> None:
    """Write the state dict for `clip.load`, with the precisions of OpenAI's checkpoints.

    Half for convolutions, linear layers, attention and projections; norms, embeddings and the
    logit scale stay in float32.
    """
    stored = copy.deepcopy(model)
    convert_weights(stored)
    temporary = Path(f"{path}.tmp")
    torch.save(stored.state_dict(), temporary)
    os.replace(temporary, path)


def load_clip(name: str | Path, device: str | torch.device = "cpu") -> CLIP:
    """`clip.load(name)`: a name such as "ViT-B/32", or the path of a state dict. Eval mode, fp32.

    Raises FileNotFoundError when it is neither, ValueError when the file holds something else.
    """
    name = str(name)
    if name not in clip.available_models() and not os.path.isfile(name):
        raise FileNotFoundError(
            f"no CLIP at {name}: give a path or one of {', '.join(clip.available_models())}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # clip.load still tries torch.jit first
        try:
            model, _ = clip.load(name, device=device)
        except (KeyError, AttributeError, UnpicklingError) as error:
            raise ValueError(
                f"{name} holds no state dict of a CLIP ({type(error).__name__}: {error})"
            ) from error
    return model.float().eval().requires_grad_(False)


def normalise_for_clip(
    images: Tensor, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> Tensor:
    """[0, 1] pictures (B, 3, H, W) -> CLIP's units, where 0 is the mean colour."""
    middle, spread = (place(torch.tensor(v), images.device).view(3, 1, 1) for v in (mean, std))
    return (images - middle) / spread


def image_encoder(model: CLIP) -> Callable[[Tensor], Tensor]:
    """(B, 3, H, W) normalised pictures -> (B, D) unit vectors; resizes to CLIP's own resolution."""
    size = model.visual.input_resolution
    return lambda images: F.normalize(
        model.encode_image(resize_for_clip(images, size)).float(), dim=-1
    )


def resize_for_clip(images: Tensor, size: int, align_corners: bool = False) -> Tensor:
    """(B, 3, H, W) -> (B, 3, size, size), bicubic like CLIP's own transform.

    align_corners: as CLIMS was released, bilinear with corner pixels on corners, not smoothed.
    """
    if images.shape[-2:] == (size, size):
        return images
    if align_corners:
        return F.interpolate(images, (size, size), mode="bilinear", align_corners=True)
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True)


@lru_cache(maxsize=65536)
def _tokens(text: str, context_length: int) -> Tensor:
    return clip.tokenize([text], context_length=context_length)[0]


def forget_texts() -> None:
    """Forget the token numbers that are remembered."""
    _tokens.cache_clear()


def tokenize(model: CLIP, texts: Sequence[str]) -> Tensor:
    """(T, context_length) token numbers by `clip.tokenize`, remembered text by text."""
    if not texts:
        raise ValueError("no texts to tokenize")
    tokens = torch.stack([_tokens(text, model.context_length) for text in texts])
    return tokens.to(model.positional_embedding.device)


def encode_texts(model: CLIP, texts: Sequence[str]) -> Tensor:
    """(T, D) unit vectors of T texts."""
    return F.normalize(model.encode_text(tokenize(model, texts)).float(), dim=-1)


def contrastive_loss(
    image_features: Tensor, text_features: Tensor, scale: Tensor, same_text: Tensor | None = None
) -> Tensor:
    """Symmetric cross entropy over a batch of picture-text pairs, unit vectors (B, D) each.

    Without `same_text`, only the picture's own row is right: two pictures with one label text are
    false negatives of each other. With the boolean (B, B) `same_text`, such pairs are left out of
    each other's softmax: neither right nor wrong. (Sharing the target among them changes nothing:
    equal texts have equal features. Notebook 01 shows it.)
    """
    logits = scale * image_features @ text_features.T
    target = torch.arange(len(logits), device=logits.device)
    if same_text is not None:
        others = same_text & (target[:, None] != target)
        logits = logits.masked_fill(others, -torch.inf)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def same_text_matrix(texts: Sequence[str]) -> Tensor:
    """(B, B) booleans: which captions of a batch are the same words."""
    number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    index = torch.tensor([number[text] for text in texts])
    return index[:, None] == index[None]


def hinge_loss(similarity: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean over (present k, absent j) pairs of max(0, margin - (s_k - s_j)): silent once a class
    text is `margin` ahead. similarity and labels: (B, K). 0 when no picture has such a pair."""
    gap = similarity[:, :, None] - similarity[:, None, :]
    pairs = labels[:, :, None] * (1 - labels[:, None, :])
    return (F.relu(margin - gap) * pairs).sum() / pairs.sum().clamp(min=1)


def autocast(device: torch.device | str, enabled: bool) -> contextlib.AbstractContextManager:
    """bf16 autocast on this device, or nothing."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled)


def contrastive_training_loss() -> Callable:
    """The contrastive loss of both towers, for `training.train`.

    A batch: (B, 3, H, W) pictures in CLIP's units and B captions. It compares all of them, so
    micro-batches would not add up to it.
    """

    def loss(model: CLIP, batch: tuple[Tensor, list[str]], progress: float) -> tuple[Tensor, dict]:
        images, texts = batch
        seen = F.normalize(model.encode_image(images).float(), dim=-1)
        said = encode_texts(model, texts)
        with autocast(seen.device, False):
            return contrastive_loss(seen, said, model.logit_scale.exp().clamp(max=100)), {}

    return loss


def clip_optimiser(
    model: CLIP, steps: int, lr: float, weight_decay: float = 0.05
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """What a new CLIP is trained with: AdamW, 5 % warm-up, cosine; matrices alone decay."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    warm = max(1, steps // 20)

    def rate(step: int) -> float:
        return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * step / steps)))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
