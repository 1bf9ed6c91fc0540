"""The CLIMS losses against figures that the authors' two releases computed (tests/golden)."""

import copy
import json
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import micro_batches_of_all

from clims_lib import losses, prompts
from clims_lib.backbones import MEAN, STD
from clims_lib.clip_model import CLIP_MEAN, CLIP_STD, resize_for_clip
from clims_lib.losses import Forms
from clims_lib.objectives import clims_training_loss
from clims_lib.training import train

CLASSES = """aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse
motorbike person pottedplant sheep sofa train tvmonitor""".split()
TRIPLE = {"chair": 3.0, "diningtable": 3.0, "sofa": 3.0}


class Release:
    def __init__(self, name, forms, weights, words, template, threshold, maps):
        self.name, self.forms, self.threshold, self.maps = name, forms, threshold, maps
        self.weights = dict(zip(("otm", "btm", "cbs", "reg"), weights, strict=True))
        self.class_texts = prompts.class_texts(prompts.class_words(CLASSES, words), template)
        self.background = prompts.background_texts(
            CLASSES, prompts.BACKGROUND[name], template, complete=False
        )


RELEASES = [
    Release(
        "camera_ready",
        Forms("pair_mean", "pair_sum", (), losses.class_weights(CLASSES, TRIPLE)),
        (10.0, 25.0, 29.5, 1.15),
        "data_set",
        "a photo of {}",
        None,
        "sigmoid_maps_21_channels",
    ),
    Release(
        "improved",
        Forms("pair_mean", "pair_sum", ("otm", "btm")),
        (10.0, 24.0, 1.0, 0.2),
        "improved",
        "a photo of {}.",
        0.26,
        "sigmoid_maps_20_channels",
    ),
]


@cache
def golden(name):
    return json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def cases(key):
    """(release, case) of those with given cosines, or of those of the complete path."""
    return [
        pytest.param(release, case, id=f"{release.name}-{i}")
        for release in RELEASES
        for i, case in enumerate(golden(f"clims_{release.name}")["cases"])
        if key in case["inputs"]
    ]


def close(found, expected, rtol=1e-6, atol=1e-9):
    torch.testing.assert_close(found.double(), double(expected), rtol=rtol, atol=atol)


def as_told(release, measured, cams, labels, told):
    """The release's total and terms, which are the figures."""
    total, terms = losses.clims_loss(
        *measured,
        cams,
        labels,
        weights=release.weights,
        cbs_threshold=release.threshold,
        forms=release.forms,
    )
    for name, value in (terms | {"total": total}).items():
        close(value, told[name])
    return total, terms


@pytest.mark.parametrize("release, case", cases("cosine_foreground_own_text"))
def test_from_given_similarities(release, case):
    given, told = case["inputs"], case["outputs"]
    maps = double(given[release.maps]).requires_grad_()
    own = double(given["cosine_foreground_own_text"])
    if "labels" in given:
        labels = torch.tensor(given["labels"])
        pairs = tuple(torch.tensor(given["pairs_image_class"]).T)
    else:  # which classes they are is not told, and plays no part
        pairs = torch.arange(len(own)) % len(maps), torch.arange(len(own))
        labels = torch.zeros(maps.shape[:2]).index_put(pairs, torch.ones(len(own)))
    rows = given["cosine_foreground_background_texts"]
    longest = max(map(len, rows))
    rows = [row + [float("nan")] * (longest - len(row)) for row in rows]
    inputs = [  # what stands at the absent classes must not matter
        x.new_full((*labels.shape, *x.shape[1:]), -0.75).index_put(pairs, x).requires_grad_()
        for x in (own, double(given["cosine_background_own_text"]), double(rows))
    ]
    cams = losses.class_maps(maps, labels.shape[1])
    total, terms = as_told(release, inputs, cams, labels, told)
    total.backward()
    slopes = [x.grad[pairs] for x in inputs]
    close(slopes[0], told["d_total_d_cosine_foreground"])
    close(slopes[1], told["d_total_d_cosine_background"])
    for found, expected in zip(slopes[2], told["d_total_d_cosine_background_texts"], strict=True):
        close(found[: len(expected)], expected)
    close(maps.grad, told["d_total_d_maps"])
    if maps.shape[1] == 21:
        assert not maps.grad[:, 0].any()  # the background's map is in no loss


def stand_in_clip(case):
    """(encode, size) of the releases' small linear encoder: pooled blocks times a matrix."""
    matrix = double(case["inputs"]["clip_image_matrix_48xC"])
    size = case["inputs"].get("clip_input_size", 224)

    def encode(images):
        pooled = F.avg_pool2d(images, size // 4).flatten(1)
        features = pooled @ matrix.to(pooled.dtype)
        return features / features.norm(dim=1, keepdim=True)

    return encode, size


def texts_of(release, case):
    """(class texts (20, D), background texts (20, L, D)); of absent classes any vector."""
    known = {
        text: double(vector) / double(vector).norm()
        for text, vector in case["inputs"]["text_vectors"].items()
    }
    some = next(iter(known.values()))
    rows = [
        torch.stack([known[t] for t in row]) if row else some[None, :][:0]
        for row in release.background
    ]
    classes = torch.stack([known.get(text, some) for text in release.class_texts])
    return classes, prompts.stack_ragged(rows)


@pytest.mark.parametrize("release, case", cases("pictures"))
def test_from_pictures_and_maps(release, case):
    given, told = case["inputs"], case["outputs"]
    labels = torch.tensor(given["labels"])
    maps = double(given[release.maps]).requires_grad_()
    encode, size = stand_in_clip(case)
    pictures = resize_for_clip(double(given["pictures"]), size, align_corners=True)
    cams = losses.class_maps(maps, 20)
    objects, _, *pairs = losses.cut_out(pictures, cams, labels, align_corners=True)
    assert torch.stack(pairs, 1).tolist() == told["pairs_image_class"]
    close(
        objects[0, :, ::32, ::32].detach(),
        told["foreground_cutout_of_pair_0_sampled_every_32_pixels"],
    )
    measured = losses.similarities(
        encode, pictures, cams, labels, *texts_of(release, case), align_corners=True
    )
    close(measured[0][tuple(pairs)].detach(), told["cosine_foreground"])
    close(measured[1][tuple(pairs)].detach(), told["cosine_background"])
    if "cosine_foreground_background_texts" in told:
        close(
            measured[2][tuple(pairs)].detach(),
            told["cosine_foreground_background_texts"],
            atol=1e-8,
        )
    total, terms = as_told(release, measured, cams, labels, told)
    for name, value in terms.items():
        (slope,) = torch.autograd.grad(value, maps, retain_graph=True, allow_unused=True)
        found = 0.0 if slope is None else slope.abs().sum().item()
        assert found == pytest.approx(told[f"d_{name}_d_maps_sum_abs"], rel=1e-6)
    (slope,) = torch.autograd.grad(total, maps)
    close(slope, told["d_total_d_maps"], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("release, case", cases("pictures"))
@pytest.mark.parametrize("normalisation", ["clip", "imagenet"])
def test_the_training_loss_in_single_precision(release, case, normalisation):
    """The loss that trains: pictures in [0, 1] units, a network whose sigmoid gives the maps."""
    given, told = case["inputs"], case["outputs"]
    maps = double(given[release.maps])
    mean, std = {"clip": (CLIP_MEAN, CLIP_STD), "imagenet": (MEAN, STD)}[normalisation]
    images = double(given["pictures"]) * double(std).view(3, 1, 1) + double(mean).view(3, 1, 1)
    scores = torch.logit(maps).float().requires_grad_()
    encode, size = stand_in_clip(case)
    loss = clims_training_loss(
        encode,
        *(text.float() for text in texts_of(release, case)),
        size=size,
        weights=release.weights,
        cbs_threshold=release.threshold,
        forms=release.forms,
        align_corners=True,
        normalisation=normalisation,
    )
    labels = torch.tensor(given["labels"]).float()
    total, terms = loss(lambda images: scores, (images.float(), labels, None), 0.0)
    for name, value in (terms | {"total": total}).items():
        close(value.detach(), told[name], rtol=1e-5)
    total.backward()
    slope = double(told["d_total_d_maps"]) * maps * (1 - maps)
    close(scores.grad, slope.tolist(), rtol=1e-4, atol=1e-6)


def test_without_a_clamp_a_negative_similarity_is_nan():
    """So it was in the camera-ready release; other classes' entries must not spoil it."""
    s, labels = torch.tensor([[0.5, -0.1]]), torch.tensor([[1.0, 0.0]])
    raw = Forms(clamped=())
    assert losses.otm_loss(s, labels, raw).isfinite()
    assert losses.otm_loss(s, torch.ones(1, 2), raw).isnan()
    assert losses.otm_loss(s, torch.ones(1, 2)).isfinite()


def test_the_three_reductions_by_hand():
    """Two pictures of one and two classes: a mean over pictures is 3 / 2 of one over pairs."""
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    s = torch.full((2, 2, 1), 0.5)
    found = [losses.cbs_loss(s, labels, forms=Forms(cbs=name)).item() for name in losses.REDUCTIONS]
    log2 = torch.tensor(2.0).log().item()
    assert found == pytest.approx([1.5 * log2, log2, 3 * log2])


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
@pytest.mark.parametrize("accumulate, size", [(3, 1), (1, 2), (2, 3), (1, 9)])
def test_micro_batches_add_up_to_the_whole_batch(release, accumulate, size):
    """Pairs, pictures and sums over pairs weigh differently: 7 pictures, some with more classes."""
    g = torch.Generator().manual_seed(1)
    labels = F.one_hot(torch.tensor([3, 18, 0, 3, 8, 11, 18]), 20).float()
    labels[0, 14] = labels[0, 8] = labels[3, 18] = 1
    images = torch.rand(7, 3, 8, 8, generator=g)
    near = lambda *shape: F.normalize(1 + torch.rand(*shape, 6, generator=g), dim=-1)  # noqa: E731
    rows = [near(len(row)) for row in release.background]
    project = torch.rand(192, 6, generator=g)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Conv2d(3, 21 if "21" in release.maps else 20, 1)
    loss = clims_training_loss(
        lambda x: F.normalize(x.flatten(1) @ project + 99, dim=-1),
        near(20),
        prompts.stack_ragged(rows),
        size=8,
        weights=release.weights,
        cbs_threshold=release.threshold,
        forms=release.forms,
    )
    batch = images, labels, None
    value, parts = loss(network, batch, 0.0)
    whole = torch.autograd.grad(value, list(network.parameters()))
    found, told = [torch.zeros_like(p) for p in network.parameters()], dict.fromkeys(parts, 0.0)
    for parts_of_one in micro_batches_of_all(batch, accumulate, size, loss, network):
        for some, weight in parts_of_one:
            if not len(some[0]):
                continue
            _, terms = loss(network, some, 0.0)
            shares = {name: weight[name] * term for name, term in terms.items()}
            told = {name: told[name] + shares[name].item() for name in told}
            slopes = torch.autograd.grad(loss.total(shares), list(network.parameters()))
            found = [a + b for a, b in zip(found, slopes, strict=True)]
    assert told == pytest.approx({name: part.item() for name, part in parts.items()}, rel=1e-5)
    torch.testing.assert_close(found, list(whole), rtol=1e-3, atol=1e-4)  # single precision

    ends = []  # and so does the loop that trains
    for times in (1, 3):
        model = copy.deepcopy(network)
        sgd = torch.optim.SGD(model.parameters(), 1e-3)
        history = train(
            model, loss, lambda start: [batch], steps=1, optimiser=sgd, amp=False, accumulate=times
        )
        ends.append([*history[0].values(), *[p.detach() for p in model.parameters()]])
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no reduction 'pair_summ'; did you mean pair_sum"):
        Forms(cbs="pair_summ")
    with pytest.raises(ValueError, match="only otm, btm and cbs can be clamped, not 'reg'"):
        Forms(clamped=("otm", "reg"))
    with pytest.raises(ValueError, match="'dining table'; did you mean diningtable"):
        losses.class_weights(CLASSES, {"dining table": 3.0})
    s, labels = torch.full((1, 2), 0.5), torch.ones(1, 2)
    with pytest.raises(ValueError, match="3 class weights, 2 classes"):
        losses.otm_loss(s, labels, Forms(class_weights=(1.0, 1.0, 3.0)))
    with pytest.raises(ValueError, match="22 maps for 20 classes"):
        losses.class_maps(torch.zeros(1, 22, 2, 2), 20)
    with pytest.raises(ValueError, match="class_maps leaves a background's out"):
        losses.cut_out(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), labels)
    with pytest.raises(ValueError, match="normalisation is one of"):
        clims_training_loss(None, s, s, size=4, weights={}, normalisation="voc")
