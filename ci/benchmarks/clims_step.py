"""One CLIMS training step against the loop as it was published, on the same weights and pictures.

    python ci/benchmarks/clims_step.py                               # mini's shapes, CPU
    python ci/benchmarks/clims_step.py --device cuda --crop 512 --batch 16 --clip ViT-B/32

The published loop encodes the texts in every step, sends three batches of pictures through CLIP
(object, rest, and object again for the background texts), and goes through classes in Python.
CLIP's weights are random, of OpenAI's shapes for RN50 and ViT-B/32.
"""

from __future__ import annotations

import argparse
import sys

import clip
import torch
import torch.nn.functional as F
from clip.model import CLIP
from pairs import keep, pair

from clims_lib import clip_model, prompts
from clims_lib.cam import CAMNet
from clims_lib.config import load_profile
from clims_lib.objectives import clims_training_loss

SHAPES = {  # of OpenAI's checkpoints
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "mini": (128, 64, (1, 1, 1, 1), 24, None, 20, 49408, 128, 2, 2),
}


def published_loss(model, network, images, labels, classes, background, weights):
    """The training loop of the paper's code, step by step; masks and pictures at CLIP's size."""
    size, a = model.visual.input_resolution, weights
    cams = network(images).float().sigmoid()
    small = clip_model.normalise_for_clip(clip_model.resize_for_clip(images, size))
    masks = F.interpolate(cams, (size, size), mode="bilinear", align_corners=False)

    def similarity(pictures, texts):
        seen = model.encode_image(pictures)
        tokens = clip.tokenize(texts, context_length=model.context_length).to(images.device)
        words = model.encode_text(tokens)
        seen = seen / seen.norm(dim=-1, keepdim=True)
        words = words / words.norm(dim=-1, keepdim=True)
        return (seen.float() @ words.float().T).clamp(1e-4, 1 - 1e-4)

    otm = btm = cbs = 0.0
    for k, name in enumerate(classes):
        has = labels[:, k] > 0
        if not bool(has.any()):
            continue
        mask, text = masks[has, k : k + 1], prompts.class_texts([name])
        otm = otm - similarity(small[has] * mask, text).log().sum()
        btm = btm - (1 - similarity(small[has] * (1 - mask), text)).log().sum()
        ground = similarity(small[has] * mask, prompts.class_texts(background[name]))
        cbs = cbs - (1 - ground).log().mean(1).sum()
    seen = a["otm"] * otm + a["btm"] * btm + a["cbs"] * cbs
    return seen / len(images) + a["reg"] * cams.mean()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--clip", default="mini", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    profile = load_profile("mini" if options.clip == "mini" else "voc2012")
    device, cam = torch.device(options.device), profile.cam
    classes = list(profile.data.classes)
    table = prompts.parse_background(profile.losses.background)
    torch.manual_seed(0)
    model = CLIP(*SHAPES[options.clip]).float().eval().requires_grad_(False).to(device)
    network = CAMNet(len(classes), cam.layers, thin=cam.thin, stride=cam.stride).to(device)
    images = torch.rand(options.batch, 3, options.crop, options.crop, device=device)
    labels = torch.zeros(options.batch, len(classes), device=device)
    for row in labels:  # VOC's pictures hold 1.5 classes on average
        row[torch.randperm(len(classes))[: 1 + int(torch.rand(()) < 0.5)]] = 1
    weights = {"otm": 10.0, "btm": 24.0, "cbs": 1.0, "reg": 0.2}

    with torch.no_grad():
        texts = clip_model.encode_texts(model, prompts.class_texts(classes))
        ground = prompts.stack_ragged(
            [
                clip_model.encode_texts(model, words)
                for words in prompts.background_texts(classes, table)
            ]
        )
    loss = clims_training_loss(
        clip_model.image_encoder(model),
        texts,
        ground,
        weights=weights,
        size=model.visual.input_resolution,
    )

    def ours(amp: bool) -> torch.Tensor:
        network.zero_grad()
        x = images.contiguous(memory_format=torch.channels_last) if amp else images
        with clip_model.autocast(device, amp):
            value, _ = loss(network, (x, labels, None), 0.0)
        value.backward()
        return network.head.weight.grad.clone()

    def theirs() -> torch.Tensor:
        network.zero_grad()
        published_loss(model, network, images, labels, classes, table, weights).backward()
        return network.head.weight.grad.clone()

    network.eval()  # running statistics: the same gradient whatever went before
    mine, published = ours(False), theirs()
    apart = float((mine - published).abs().max() / published.abs().max())
    rows = []
    for amp, goal in ((False, 2.0), (True, 4.0 if options.device == "cuda" else None)):
        memory = None
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            ours(amp)
            memory = torch.cuda.max_memory_allocated() / 2**20
        found = pair(lambda amp=amp: ours(amp), theirs, options.rounds)
        rows.append(
            {
                "what": f"CLIMS step, {options.clip}, crop {options.crop}, batch "
                f"{options.batch}, {options.device}, {'bf16' if amp else 'fp32'}",
                "peer": "the published loop, fp32",
                "goal": goal,
                "ours_images_s": options.batch / found["ours_s"],
                "gradients_apart": apart,
                "peak_MiB": memory,
            }
            | found
        )
    name = f"clims_step_{options.clip}_{options.device}".replace("/", "")
    keep(name, rows, "python ci/benchmarks/clims_step.py " + " ".join(arguments or sys.argv[1:]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
