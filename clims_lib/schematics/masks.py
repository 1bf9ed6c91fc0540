"""What becomes of maps: random walk, dense CRF, and CCT, which learns from their masks."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from clims_lib import crf, perturbations, plots, random_walk
from clims_lib.labels import IGNORE
from clims_lib.schematics import examples
from clims_lib.schematics.boxes import GREY, SMALL, STREAMS, Board, evenly

COARSE = 2  # pixels a place of the walk and of the CRF: all pairs are quickly computed
HERE = (25, 30)  # a place (row, column) on the train


def walk() -> Figure:
    """Affinities and the random walk along them (Ahn and Kwak, CVPR 2018)."""
    board = Board(
        5.0,
        "Upper row: the sure parts of a map, object and background, say of pairs of neighbours "
        "whether they belong together; an affinity head on the frozen CAM network learns it. "
        "Middle: affinities of one place, high inside the train and low beyond its border. Lower "
        "row: the walk carries the seed along them, over 2, 8 and 32 steps, to the whole train.",
    )
    cam, seed, steps = examples.tight(), examples.front(0.1), random_walk.offsets(5)
    # Colours stand in for the head's embedding, so strong that their affinities differ.
    values = random_walk.affinity(9 * F.avg_pool2d(examples.as_batch(), COARSE), steps)
    y, x = 4.1, evenly((1.1, 1.05, 1.95, 0.95, 1.05, 0.95))
    board.title((0.15, 4.82), "1  Learn from a map's sure parts which neighbours belong together")
    features = board.box(
        (x[0], y), "features\nof the CAM\nnetwork", "frozen", (1.1, 0.7), size=SMALL
    )
    head = board.box((x[1], y), "affinity\nhead", "network", (1.05, 0.7))
    loss = board.box((x[2], y), "pairs of neighbours:\nalike → 1, unlike → 0", "loss", (1.95, 0.7))
    sure = board.tile((x[3], y), _sure(cam), words="sure parts")
    bounds = board.box((x[4], y), "two\nthresholds", area=(1.05, 0.7))
    found = board.tile((x[5], y), examples.over(cam), words="map")
    board.chain(features, head, loss)
    for start, end in ((found, bounds), (bounds, sure), (sure, loss)):
        board.arrow(start.left(), end.right())

    near = board.tile((x[1], 2.6), _affinities_here(values, steps), 1.1)
    board.text((x[1], 2.6), "×", 12, color="white", weight="bold")
    board.arrow(head.bottom(), near.top())
    words = (
        "Affinities of the place × with all places within 5 steps: bright where they belong\n"
        "together. (In this sketch they come from colours alone.)"
    )
    board.text((near.right()[0] + 0.15, 2.75), words, ha="left")

    y = 1.05
    board.title((near.right()[0] + 0.15, 1.85), "2  Let the seed walk along the affinities")
    start = board.tile((x[0], y), plots.heatmap(seed), words="seed")
    mean = board.box((x[1], y), "mean of the\nneighbours,\nby affinity", area=(1.05, 0.8))
    board.arrow(near.bottom(), mean.top())
    times = (2, 8, 32)
    walked = [_walked(seed, values, steps, n) for n in times]
    at = evenly((0.95,) * 4, mean.right()[0] + 0.35)
    later = [
        board.tile((at[i], y), plots.heatmap(m), words=f"{n} steps")
        for i, (n, m) in enumerate(zip(times, walked, strict=True))
    ]
    mask = np.where(walked[-1] > 0.3, examples.TRAIN_LABEL, 0).astype(np.uint8)
    last = board.tile((at[3], y), plots.coloured(mask), words="its mask")
    board.chain(start, mean, *later, last)
    board.note(examples.NOTE)
    return board.figure


def _sure(cam: np.ndarray) -> np.ndarray:
    """Sure labels of a map in colours: the train, the background, and what is unsure."""
    labels = np.where(cam > 0.5, examples.TRAIN_LABEL, np.where(cam < 0.15, 0, IGNORE))
    return plots.coloured(labels.astype(np.uint8))


def _affinities_here(values: Tensor, steps: list[tuple[int, int]], reach: int = 9) -> np.ndarray:
    """The surroundings of HERE in grey, and the affinities of its neighbours in colour."""
    row, column = HERE
    grey = F.avg_pool2d(examples.as_batch(), COARSE)[0].mean(0)
    shown = np.repeat(0.4 + 0.6 * grey.numpy()[..., None], 3, axis=-1)
    for o, (dy, dx) in enumerate(steps):
        ahead, behind = values[0, o, row, column], values[0, o, row - dy, column - dx]
        shown[row + dy, column + dx] = plots.heatmap([[float(ahead)]])[0, 0]
        shown[row - dy, column - dx] = plots.heatmap([[float(behind)]])[0, 0]
    shown[row, column] = plots.heatmap([[1.0]])[0, 0]
    return shown[row - reach : row + reach + 1, column - reach : column + reach + 1]


def _walked(cam: np.ndarray, values: Tensor, steps: list, times: int) -> np.ndarray:
    small = F.avg_pool2d(torch.tensor(cam)[None, None].float(), COARSE)
    found = random_walk.random_walk(small, values, steps, beta=8.0, times=times)[0, 0].numpy()
    return found / found.max()


def mean_field() -> Figure:
    """A step of mean field in the dense CRF (Krähenbühl and Koltun, NIPS 2011)."""
    board = Board(
        4.5,
        "From the probability Q of train at each pixel two messages go out: a Gaussian kernel "
        "averages over near pixels, a bilateral one over near pixels of like colour. Both and the "
        "map's own evidence are added; softmax makes a new Q, which follows the train's edges, "
        "and the step is repeated about ten times.",
    )
    evidence, q, kernels, messages, later = _mean_field_step()
    x = evenly((0.95, 0.95, 0.95, 1.3, 0.9, 0.95))
    middle, rows = 2.5, (3.45, 1.55)
    now = board.tile((x[0], middle), plots.heatmap(q), words="Q: probability\nof train", above=True)
    total = board.box((x[3], middle), "add both\nmessages and\nthe evidence", area=(1.3, 0.8))
    for y, kernel, message, words in zip(
        rows, kernels, messages, ("near pixels", "near pixels\nof like colour"), strict=True
    ):
        weigh = board.tile((x[1], y), kernel, words=words)
        up, along = (1 - (HERE[0] + 0.5) / 48), (HERE[1] + 0.5) / 48
        board.text((weigh.x + along * weigh.width, weigh.y + up * weigh.height), "×", color="white")
        sent = board.tile((x[2], y), plots.heatmap(message), words="message")
        turn = (x[0] + x[1]) / 2
        board.arrow(now.right(), (turn, middle), (turn, y), weigh.left())
        board.chain(weigh, sent)
        side = total.top(0.25) if y > middle else total.bottom(0.25)
        board.arrow(sent.right(), (side[0], y), side)
    own = board.tile((total.top(0.75)[0] + 0.2, 3.85), plots.heatmap(evidence), 0.75)
    board.text((own.right()[0] + 0.1, 3.85), "evidence:\nthe map", ha="left")
    board.arrow(own.bottom(0.3), (own.bottom(0.3)[0], total.top()[1]))
    soft = board.box((x[4], middle), "softmax", area=(0.9, 0.6))
    new = board.tile((x[5], middle), plots.heatmap(later), words="new Q", above=True)
    board.chain(total, soft, new)
    board.arrow(new.bottom(), (x[5], 0.5), (x[0], 0.5), now.bottom())
    board.text((7.2, 0.57), "again, about ten times", va="bottom")
    board.note(examples.NOTE)
    return board.figure


def _mean_field_step() -> tuple:
    """Evidence, Q, both kernels around HERE, both messages, the next Q: (h, w) each, of train."""
    image = F.avg_pool2d(examples.as_batch(), COARSE)
    cam = F.avg_pool2d(torch.tensor(examples.leaking())[None, None].float(), COARSE)
    energies = crf.unary_from_cam(cam, 0.4).movedim(1, -1)
    filters = crf.message_filters(
        image, bilateral_sxy=12.0, bilateral_srgb=0.1, bilateral_weight=6.0
    )
    q = (-energies).softmax(-1)
    sent = [messages(q) for messages in filters]
    one = torch.zeros(*q.shape[:3], 1)
    one[0, HERE[0], HERE[1]] = 1
    kernels = [messages(one)[0, ..., 0] for messages in filters]
    later = (sum(sent) - energies).softmax(-1)
    shown = [plots.map_over(image[0].numpy(), (k / k.max()).numpy(), 0.75) for k in kernels]
    of_train = [(m[..., 1] / m.sum(-1))[0].numpy() for m in sent]
    return cam[0, 0].numpy(), q[0, ..., 1].numpy(), shown, of_train, later[0, ..., 1].numpy()


def cct() -> Figure:
    """Main and auxiliary decoders that must agree (Ouali et al., CVPR 2020)."""
    board = Board(
        4.75,
        "One encoder for all pictures. A labelled picture goes through the main decoder, whose "
        "prediction is compared with its mask. Features of a picture without mask go to the main "
        "decoder as they are and to auxiliary decoders perturbed; the auxiliary predictions must "
        "agree with the main one and, weighted less, with the pseudo mask of CLIMS.",
    )
    boat, train, lanes = examples.scene("boat"), examples.scene(), (3.95, 2.55, 1.15)
    x = evenly((0.95, 0.85, 0.95, 1.0, 0.95, 1.2, 0.95))
    mask, *others = (examples.crf_mask(examples.tight(), t) for t in (0.35, 0.15, 0.5, 0.7))
    labelled = board.tile((x[0], lanes[0]), boat.image, words="labelled")
    other = board.tile((x[0], lanes[1]), train.image, words="without mask")
    encoder = board.box((x[1], 3.25), "shared\nencoder", "network", (0.85, 2.2))
    z, damaged = _features()
    plain = board.tile((x[2], lanes[1]), z, 0.8, "features z", above=True)
    changed = board.stack((x[2], lanes[2]), damaged, words="perturbed z")
    main = board.box((x[3], 3.25), "main\ndecoder", "network", (1.0, 2.2))
    auxiliary = board.box((x[3], lanes[2]), "auxiliary\ndecoders", "network", (1.0, 0.7))
    first = board.tile((x[4], lanes[0]), plots.coloured(boat.mask()), words="prediction")
    second = board.tile((x[4], lanes[1]), plots.coloured(mask), words="prediction")
    third = board.stack((x[4], lanes[2]), [plots.coloured(m) for m in others], words="predictions")
    board.text((x[5], lanes[1] + 0.36), "main decoder teaches", va="bottom")
    right = board.box((x[5], lanes[0]), "cross\nentropy", "loss", (1.2, 0.6))
    agree = board.box((x[5], lanes[1]), "consistency", "loss", (1.2, 0.6))
    weak = board.box((x[5], lanes[2]), "cross\nentropy", "loss", (1.2, 0.6))
    truth = board.tile((x[6], lanes[0]), plots.coloured(boat.mask()), words="mask by hand")
    pseudo = board.tile((x[6], lanes[2]), plots.coloured(mask), words="pseudo mask")
    words = "blue, full: pictures with masks; orange, dashed: with image-level labels"
    board.text((0.15, 0.08), words, ha="left", va="bottom", color=GREY)
    full, dashed = STREAMS
    board.chain(labelled, encoder, **full)
    board.chain(main, first, right, **full)
    board.arrow((encoder.right()[0], lanes[0]), (main.x, lanes[0]), **full)
    board.arrow(truth.left(), right.right(), **full)
    board.chain(other, encoder, plain, main, second, agree, **dashed)
    board.chain(changed, auxiliary, third, weak, **dashed)
    board.arrow(plain.bottom(), changed.top(), **dashed)
    board.arrow(pseudo.left(), weak.right(), **dashed)
    start, end, turn = third.right(0.85), agree.left(0.25), (third.right()[0] + weak.x) / 2
    board.arrow(start, (turn, start[1]), (turn, end[1]), end, **dashed)
    return board.figure


def _features() -> tuple[np.ndarray, list[np.ndarray]]:
    """Features of the train's picture, 12 x 12 places, and three of the perturbations of them."""
    layers = [examples.layer(name) for name in ("train", "railroad", "sky", "trees")]
    z = F.avg_pool2d(torch.tensor(np.stack(layers))[None].float() + 0.1, 8)
    z = z * torch.tensor([2.0, 0.7, 0.3, 1.2]).view(1, 4, 1, 1)
    g = torch.Generator().manual_seed(0)
    scores = torch.stack([0.5 - z[:, 0] / 2, z[:, 0] / 2], 1)
    changed = (
        perturbations.feature_drop(z, g),
        perturbations.feature_noise(z, g, 0.9),
        perturbations.object_mask(z, scores),
    )
    top = float(z.mean(1).max())
    shown = [plots.heatmap(one.mean(1)[0].numpy() / top) for one in (z, *changed)]
    return shown[0], shown[1:]
