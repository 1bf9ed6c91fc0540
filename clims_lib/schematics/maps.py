"""Where maps come from: CAM, CLIMS and PuzzleCAM."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from clims_lib import plots
from clims_lib.schematics import examples
from clims_lib.schematics.boxes import GREY, LARGE, SMALL, STREAMS, XY, Board, Place, evenly


def cam() -> Figure:
    """Features, 1x1 head, global average pooling; the map of a class (Zhou et al., CVPR 2016)."""
    board = Board(
        4.15,
        "Upper row, training: picture, backbone, features, a 1x1 head that gives a score map a "
        "class, the mean of each map (GAP), cross entropy with the image-level labels. Lower row, "
        "the map of the class train: 0.9 times a feature of trains plus 0.6 times one of rails "
        "minus 0.4 times one of the sky; its positive part over its maximum is the CAM, which "
        "lies on the train and on the rails.",
    )
    weights = {"train": 0.9, "rails": 0.6, "sky": -0.4}
    features = [examples.layer("train"), examples.rails(), examples.layer("sky")]
    score = np.tensordot(list(weights.values()), features, 1)
    scores = [score, features[2] - features[0], features[1] - 0.5 * features[2]]

    y, x = 3.2, evenly((0.95, 0.95, 0.95, 0.75, 0.95, 1.05, 1.2))
    board.title((0.15, 3.95), "Training: image-level labels, nothing else")
    image = board.tile((x[0], y), examples.scene().image, words="picture")
    backbone = board.box((x[1], y), "backbone", "network")
    seen = board.stack((x[2], y), [plots.heatmap(f) for f in features], words="features")
    head = board.box((x[3], y), "1×1\nhead", "network", (0.75, 0.7))
    maps = board.stack(
        (x[4], y), [plots.signed(m, 1) for m in scores], words="a score map\na class"
    )
    pool = board.box((x[5], y), "GAP:\nmean of\neach map", area=(1.05, 0.7))
    loss = board.box((x[6], y), "cross entropy\nwith labels", "loss", (1.2, 0.7))
    board.chain(image, backbone, seen, head, maps, pool, loss)

    y = 1.12
    board.title((0.15, 1.9), "The map of one class: the head's weights, before the mean")
    for i, (name, weight) in enumerate(weights.items()):
        sign = "− " if weight < 0 else "+ " if i else ""
        board.text((0.82 + 1.52 * i, y), f"{sign}{abs(weight):g} ×", LARGE, ha="right")
        board.tile((1.25 + 1.52 * i, y), plots.heatmap(features[i]), 0.75, f"a feature:\n{name}")
    board.text((4.86, y), "=", LARGE)
    found = board.tile((x[4], y), plots.signed(score, 1), 0.75, "score map\nof train")
    relu = board.box((x[5], y), "ReLU,\n÷ maximum", area=(1.05, 0.7))
    shown = board.tile(
        (x[6], y), examples.over(score.clip(0) / score.max()), 0.95, "CAM: on rails, too"
    )
    board.chain(found, relu, shown)
    board.text((0.15, 0.08), "purple: below 0, orange: above", ha="left", va="bottom", color=GREY)
    board.note(examples.NOTE)
    return board.figure


def clims() -> Figure:
    """Picture x map and picture x (1 - map) through CLIP's two towers; the four terms."""
    board = Board(
        4.75,
        "The CAM network makes a map P of a picture x. The object image x P and the rest image "
        "x (1 - P) go through CLIP's image tower, class text and background texts through its text "
        "tower, both frozen. Four terms: CBS, object image unlike background texts; OTM, object "
        "image like the class text; BTM, rest image unlike the class text; REG, small mean of P.",
    )
    share = examples.tight()
    image = board.tile((0.7, 4.1), examples.scene().image, words="picture x")
    network = board.box((0.7, 2.7), "CAM\nnetwork", "network")
    found = board.tile((0.7, 1.3), plots.heatmap(share), words="map P")
    board.arrow((0.7, image.y - 0.23), network.top())
    board.arrow(network.bottom(), found.top())
    kept = board.tile((2.3, 3.62), examples.kept(share), words="object image\nx · P")
    rest = board.tile((2.3, 2.2), examples.kept(1 - share), words="rest image\nx · (1 − P)")
    bus = 1.5
    board.line(image.right(), (bus, 4.1), (bus, 1.6), (found.right()[0], 1.6))
    for place in (kept, rest):
        board.arrow((bus, place.left()[1]), place.left())

    images = board.box((3.55, 3.05), "CLIP's\nimage\ntower", "frozen", (0.85, 2.5))
    texts = board.box((7.1, 3.05), "CLIP's\ntext\ntower", "frozen", (0.85, 2.5))
    area = (2.1, 0.72)
    cbs = board.box(
        (5.33, 3.94), "CBS\nobject ≠ background texts\n−log(1 − s)", "loss", area, size=SMALL
    )
    otm = board.box((5.33, 3.1), "OTM\nobject ≈ class text\n−log s", "loss", area, size=SMALL)
    btm = board.box((5.33, 2.2), "BTM\nrest ≠ class text\n−log(1 − s)", "loss", area, size=SMALL)
    reg = board.box((5.33, 1.15), "REG\nthe map is small\nmean of P", "loss", area, size=SMALL)
    board.chain(kept, images, **STREAMS[0])
    board.chain(rest, images, **STREAMS[1])
    for term, stream in ((cbs, STREAMS[0]), (otm, STREAMS[0]), (btm, STREAMS[1])):
        board.chain(images, term, **stream)
        board.arrow((texts.x, term.left()[1]), term.right())
    others = board.box((8.28, 3.94), "“railroad”,\n“rails”, ...", area=(1.14, 0.6), size=SMALL)
    klass = board.box((8.28, 2.65), "“a photo of\na train”", area=(1.14, 0.6), size=SMALL)
    for said in (others, klass):
        board.arrow(said.left(), (texts.right()[0], said.left()[1]))
    board.arrow((found.right()[0], 1.15), reg.left())
    board.text(
        (6.55, 1.15),
        "s: cosine of picture and text.\nThe sum of all terms trains\nthe CAM network alone.",
        ha="left",
    )
    board.key((0.23, 0.3), "network", "frozen", "loss")
    board.note(examples.NOTE)
    return board.figure


def puzzle() -> Figure:
    """Whole and tiles through one network: their maps must agree (Jo and Yu, ICIP 2021)."""
    board = Board(
        3.75,
        "A picture goes whole and cut into 2 x 2 tiles through one CAM network. The tiles' maps "
        "are joined; cross entropy of both pooled maps with the labels, and the mean difference "
        "of whole and joined maps, are the loss.",
    )
    high, middle, low = 2.8, 1.93, 1.06
    x = evenly((1.11, 1.0, 1.11, 0.95, 2.1))
    whole, apart = plots.heatmap(examples.leaking()), plots.heatmap(_seen_apart())
    image = board.tile((x[0], high), examples.scene().image, words="picture", above=True)
    cut = _tiles(board, (x[0], low), examples.scene().image, "its tiles")
    network = board.box((x[1], middle), "CAM\nnetwork,\nthe same\nfor both", "network", (1.0, 2.7))
    board.arrow(image.bottom(), cut.top())
    first = board.tile((x[2], high), whole, words="map A", above=True)
    maps = _tiles(board, (x[2], low), apart, "the tiles' maps")
    joined = board.tile((x[3], low), apart, words="joined: A′")
    board.chain(image, network, first)
    board.chain(cut, network, maps, joined)
    area = (2.1, 0.62)
    one = board.box(
        (x[4], high), "cross entropy with labels\nof the mean of A", "loss", area, size=SMALL
    )
    gap = board.box((x[4], middle), "α · mean |A − A′|", "loss", area)
    two = board.box(
        (x[4], low), "cross entropy with labels\nof the mean of A′", "loss", area, size=SMALL
    )
    board.chain(first, one)
    board.chain(joined, two)
    aside, y = joined.right()[0] + 0.15, gap.left(2 / 3)[1]
    board.arrow(first.right(0.2), (aside, first.right(0.2)[1]), (aside, y), gap.left(2 / 3))
    board.arrow(joined.top(), (x[3], gap.left(1 / 3)[1]), gap.left(1 / 3))
    board.note(examples.NOTE)
    return board.figure


def _seen_apart() -> np.ndarray:
    """The map (H, W) in [0, 1] of a network that saw a quarter at a time: more of the train."""
    half, gains = examples.SIZE // 2, np.array([[0.5, 0.75], [1.0, 0.9]])
    quarters = np.kron(gains, np.ones((half, half)))
    return np.clip(examples.front(0.9) * quarters + 0.4 * examples.rails(), 0, 1)


def _tiles(board: Board, at: XY, pixels: np.ndarray, words: str) -> Place:
    """A picture (H, W, 3) in four tiles with gaps between them, in a frame."""
    half, size, gap, whole = len(pixels) // 2, 0.45, 0.07, 1.11
    corner = (at[0] - whole / 2, at[1] - whole / 2)
    place = board.rectangle(corner, (whole, whole), "white", ec=GREY)
    for row, column in np.ndindex(2, 2):
        tile = pixels[row * half : (row + 1) * half, column * half : (column + 1) * half]
        aside = (size + gap) / 2
        board.tile((at[0] + (2 * column - 1) * aside, at[1] + (1 - 2 * row) * aside), tile, size)
    board.caption(place, words)
    return place
