"""The whole: from image-level labels to a segmentation network, and how notebooks are executed."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from clims_lib import plots
from clims_lib.schematics import examples
from clims_lib.schematics.boxes import GREY, SMALL, Board, Place, evenly

SHOWN_CASES = ("train", "boat", "person")  # the paper's own
PIPELINE = (
    "From left to right: a picture with its image-level label goes into the CAM network, which "
    "gives a map, the seed; random walk and dense CRF make it a pseudo mask; a segmentation "
    "network learns from pseudo masks and later needs no labels. Above: CLIP, frozen, compares the "
    "object and the rest, cut out by the map, with texts; this loss trains the CAM network."
)


def pipeline() -> Figure:
    """Labels, CLIP, CAM network, seeds, walk and CRF, pseudo masks, segmentation network."""
    board = Board(3.85, PIPELINE)
    _draw_pipeline(board, 1.65)
    board.note(examples.NOTE)
    return board.figure


def first_screen(
    pictures: Sequence = (), cam_masks: Sequence = (), clims_masks: Sequence = ()
) -> Figure:
    """The pipeline and, where given, a train, a boat and a person with two methods' masks.

    Each of the three holds first a train's, then a boat's, then a person's: pictures (3, H, W),
    masks uint8 (H, W). Without pictures it is the pipeline alone: no mask is made up. ValueError:
    not three each.
    """
    rows = (pictures, cam_masks, clims_masks)
    if not any(map(len, rows)):
        return pipeline()
    if any(len(row) != len(SHOWN_CASES) for row in rows):
        raise ValueError(f"give pictures and both methods' masks of {', '.join(SHOWN_CASES)}")
    words = " Below: a train, a boat and a person, each as picture, CAM's and CLIMS's mask."
    board = Board(5.3, PIPELINE + words)
    _draw_pipeline(board, 3.25)
    size, gap = 0.87, 0.06
    for i, name in enumerate(SHOWN_CASES):
        left = 0.15 + 2.985 * i
        board.title((left, 1.6), name)
        masks = [plots.overlay(pictures[i], row[i]) for row in rows[1:]]
        panels = zip((plots.picture(pictures[i]), *masks), ("picture", "CAM", "CLIMS"), strict=True)
        for k, (pixels, below) in enumerate(panels):
            board.tile((left + size / 2 + k * (size + gap), 1.0), pixels, size, below)
    board.note("maps above: drawn for this sketch; masks below: of trained networks")
    return board.figure


def _draw_pipeline(board: Board, y: float) -> None:
    """The pipeline's stations on a line at height y, CLIP 1.65 inches above."""
    picture, cam = examples.picture_of(), examples.tight()
    mask = examples.crf_mask(cam)
    x, high = evenly((0.95, 0.95, 0.95, 1.1, 0.95, 1.2, 0.95)), y + 1.65
    image = board.tile((x[0], y), plots.picture(picture), words="picture,\nlabel: train")
    network = board.box((x[1], y), "CAM\nnetwork", "network")
    seed = board.tile((x[2], y), examples.over(cam), words="map:\nthe seed")
    refine = board.box((x[3], y), "random walk,\ndense CRF", "step", (1.1, 0.7))
    pseudo = board.tile((x[4], y), plots.coloured(mask), words="pseudo\nmask")
    student = board.box((x[5], y), "segmentation\nnetwork", "network", (1.2, 0.7))
    found = board.tile((x[6], y), plots.overlay(picture, mask), words="its mask,\nwithout label")
    board.chain(image, network, seed, refine, pseudo, student, found)

    texts = board.box((x[0], high), "“train”,\n“railroad”", "step", (0.95, 0.6), size=SMALL)
    clip = board.box((x[1], high), "CLIP", "frozen", (0.95, 0.6))
    loss = board.box((x[1], y + 0.86), "CLIMS loss", "loss", (1.05, 0.36))
    cut = board.tile((x[2], high), examples.kept(cam), 0.6)
    rest = board.tile((x[2] + 0.67, high), examples.kept(1 - cam), 0.6)
    for start, end in (
        (image.top(), texts.bottom()),
        (texts.right(), clip.left()),
        (seed.top(), cut.bottom()),
        (cut.left(), clip.right()),
        (clip.bottom(), loss.top()),
        (loss.bottom(), network.top()),
    ):
        board.arrow(start, end)
    words = "object and rest, as the map cuts them out;\nCLIP has read pictures and texts, no masks"
    board.text((rest.right()[0] + 0.2, high + 0.12), words, ha="left")
    board.key((rest.right()[0] + 0.2, high - 0.22), "network", "frozen", "loss", "step")
    board.bracket(image.x, pseudo.right()[0], y - 1.0, "image-level labels, no masks")
    board.bracket(student.x, found.right()[0], y - 1.0, "as with masks drawn by hand")


def papermill() -> Figure:
    """Parameters, the injected cell, the executed notebook, the table."""
    board = Board(
        3.65,
        "papermill takes a notebook with a cell tagged parameters, and values from the command "
        "line; it puts a cell with these values behind the tagged one and executes the copy. Each "
        "executed notebook writes what it measured to a file; the files make one table.",
    )
    y, x = 1.75, evenly((1.95, 1.05, 2.11, 0.9, 1.55))
    source = _page(board, (x[0], y), SOURCE, "notebook")
    mill = board.box((x[1], y), "papermill", area=(1.05, 0.6))
    values = board.box((x[1], 3.3), "SEED=1\nSEED=2", area=(1.05, 0.5), family="monospace")
    board.text((values.x - 0.1, 3.3), "parameters from\nthe command line", ha="right")
    behind = board.rectangle((x[2] - 0.955, y - 1.15), (1.95, 2.5), "white", zorder=2)
    done = _page(board, (x[2] - 0.08, y), EXECUTED, "executed, one copy a seed")
    board.tile((done.right()[0] - 0.4, done.y + 0.34), examples.over(examples.tight()), 0.5)
    board.text((done.x + 0.2, done.y + 0.34), "IoU ...", ha="left", family="monospace")
    file = board.box((x[3], y), "metrics/\n03.json", area=(0.9, 0.6), size=SMALL)
    board.caption(file, "what was\nmeasured")
    table = _table(board, (x[4], y))
    board.arrow(values.bottom(), mill.top())
    board.chain(source, mill, done)
    board.arrow((behind.right()[0], y), file.left())
    board.chain(file, table)
    return board.figure


PLAIN, TAGGED, INJECTED, WRITTEN = "#F2F2F2", "#CFE4F3", "#FFE8BF", "#FFFFFF"
SOURCE = (
    ("text", WRITTEN, ""),
    ("SEED = 0", TAGGED, "parameters"),
    ("train(SEED)", PLAIN, ""),
    ("measure()", PLAIN, ""),
)
EXECUTED = (*SOURCE[:2], ("SEED = 1", INJECTED, "injected"), *SOURCE[2:])


def _page(board: Board, at: tuple[float, float], cells: Sequence, words: str) -> Place:
    """A notebook: cells (code, colour, tag) from top to bottom, what it is below."""
    page = board.rectangle((at[0] - 0.975, at[1] - 1.25), (1.95, 2.5), "white", zorder=2.5, lw=1.4)
    for i, (code, colour, tag) in enumerate(cells):
        y = page.y + 2.12 - 0.36 * i
        board.rectangle((page.x + 0.1, y), (1.75, 0.28), colour, ec=GREY)
        board.text((page.x + 0.17, y + 0.14), code, ha="left", family="monospace")
        board.text((page.x + 1.78, y + 0.14), tag, ha="right", style="italic")
    board.caption(page, words)
    return page


def _table(board: Board, at: tuple[float, float]) -> Place:
    """The rows of the results, one a method and seed; no number is made up."""
    place = board.rectangle((at[0] - 0.775, at[1] - 0.68), (1.55, 1.36), "white", lw=1.4)
    lines = ("method seed mIoU", "cam 1 ...", "cam 2 ...", "clims 1 ...", "clims 2 ...")
    for i, line in enumerate(lines):
        y = place.y + 1.22 - 0.265 * i
        columns = zip((0.08, 1.0, 1.47), ("left", "right", "right"), line.split(), strict=True)
        for x, align, word in columns:
            board.text((place.x + x, y), word, ha=align)
    board.line((place.x, place.y + 1.08), (place.right()[0], place.y + 1.08))
    board.caption(place, "table of results")
    return place
