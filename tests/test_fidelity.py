"""The published method at its published shapes, without the published weights."""

import math

import clip
import pytest
import torch
import torch.nn.functional as F
from clip.model import CLIP

from clims_lib import clip_model, finetune, losses, prompts
from clims_lib.cam import CAMNet
from clims_lib.objectives import clims_training_loss
from clims_lib.training import train

SHAPES = {  # of OpenAI's checkpoints
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
}
CLASSES = ["boat", "person", "train"]
WEIGHTS = {"otm": 10.0, "btm": 24.0, "cbs": 1.0, "reg": 0.2}  # the paper's


@pytest.mark.slow
@pytest.mark.parametrize("half", [True, False], ids=["fp16", "fp32"])
@pytest.mark.parametrize("name", SHAPES)
def test_real_shapes_are_loaded_finetuned_and_matched(name, half, tmp_path):
    torch.manual_seed(0)
    fresh = CLIP(*SHAPES[name])
    path = tmp_path / "clip.pt"
    if half:
        clip_model.save_clip(fresh, path)
    else:
        torch.save(fresh.state_dict(), path)
    model = clip_model.load_clip(path)
    assert isinstance(model, CLIP) and model.visual.input_resolution == 224
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():  # what was saved is what runs, up to the checkpoint's half precision
        tokens = clip.tokenize(["a photo of train", "a photo of boat"])
        for ours, theirs in (
            (model.encode_text(tokens), fresh.float().eval().encode_text(tokens)),
            (model.encode_image(images), fresh.encode_image(images)),
        ):
            assert F.cosine_similarity(ours, theirs).min() > 0.999
    del fresh

    texts = prompts.class_texts(CLASSES)
    before = model.text_projection.clone()
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    batches = finetune.label_batches((255 * images).to(torch.uint8), labels, texts, 2, 0)
    history = train(
        model,
        finetune.label_training_loss(correct_shared=True),
        batches,
        steps=1,
        optimiser=torch.optim.SGD(model.requires_grad_(True).parameters(), lr=1e-3),
        frozen_norm=model,
        amp=False,
    )
    model.requires_grad_(False)
    assert math.isfinite(history[0]["loss"]) and not torch.equal(before, model.text_projection)

    network = CAMNet(3, (1, 1, 1, 1), thin=8, stride=16)
    class_text = clip_model.encode_texts(model, texts).detach()
    loss = clims_training_loss(
        clip_model.image_encoder(model), class_text, class_text[:, None], size=224, weights=WEIGHTS
    )
    total, parts = loss(network, (torch.rand(2, 3, 96, 96), labels, None), 0.0)
    total.backward()
    assert math.isfinite(total.item()) and set(parts) == {"otm", "btm", "cbs", "reg"}
    assert network.head.weight.grad.abs().sum() > 0
    assert all(p.grad is None or not p.requires_grad for p in model.visual.parameters())


def literal_clims(encode, images, cams, labels, class_text, background, weights, threshold):
    """Equations 2 to 6 letter by letter: one picture, one class, one text at a time."""

    def s(image, text):
        a, b = encode(image[None])[0].tolist(), text.tolist()
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))

    batch, classes, height, width = cams.shape
    otm = btm = cbs = reg = 0.0
    for i in range(batch):
        for k in range(classes):
            reg += sum(sum(row) for row in cams[i, k].tolist()) / (height * width) / classes / batch
            if not labels[i, k]:
                continue
            seen, rest = images[i] * cams[i, k], images[i] * (1 - cams[i, k])
            otm -= math.log(s(seen, class_text[k])) / batch
            btm -= math.log(1 - s(rest, class_text[k])) / batch
            for text in background[k]:
                similarity = s(seen, text)
                if threshold is None:
                    cbs -= math.log(1 - similarity) / len(background[k]) / batch
                elif similarity > threshold:
                    cbs -= math.log(1 - similarity) / batch
    w = weights
    return w["otm"] * otm + w["btm"] * btm + w["cbs"] * cbs + w["reg"] * reg


@pytest.mark.parametrize("threshold", [None, 0.26, 0.6])
def test_the_loss_is_the_published_one(threshold):
    g = torch.Generator().manual_seed(3)
    images = torch.rand(3, 3, 6, 6, generator=g)
    cams = torch.rand(3, 4, 6, 6, generator=g)
    labels = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]])
    project = torch.randn(108, 16, generator=g) * 0.2
    centre = torch.randn(16, generator=g)
    encode = lambda x: F.normalize(x.flatten(1) @ project + centre, dim=-1)  # noqa: E731
    near = lambda *shape: F.normalize(  # noqa: E731  texts that have something of every picture
        centre + torch.randn(*shape, 16, generator=g), dim=-1
    )
    class_text, background = near(4), [near(n) for n in (3, 1, 2, 3)]
    expected = literal_clims(
        encode, images, cams, labels, class_text, background, WEIGHTS, threshold
    )
    measured = losses.similarities(
        encode, images, cams, labels, class_text, prompts.stack_ragged(background)
    )
    total, _ = losses.clims_loss(*measured, cams, labels, weights=WEIGHTS, cbs_threshold=threshold)
    assert total.item() == pytest.approx(expected, rel=1e-6)
