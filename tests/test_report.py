"""The report is one page: nothing outside it, numbers beside the paper's, texts for pictures."""

from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from clims_lib.results.paper import beside_the_paper
from clims_lib.results.report import render_report, save_figure


def row(method, miou, seed=0, **more):
    return {
        "method": method,
        "split": "test",
        "seed": seed,
        "miou": miou,
        "iou": {"person": 0.4, "boat": 0.25},
        "leak": {"water->boat": 0.1},
    } | more


RESULTS = {
    "rows": [
        row("clims", 0.561),
        row("puzzle_cam", 0.41),
        row("cct", 0.583),
        row("cct_clims", 0.65),
        row("clims", 0.99, split="val"),
    ],
    "zero_shot": [{"model": "clip", "split": "test", "seed": 0, "accuracy": {"person": 0.125}}],
    "oracle": [
        {"class": "train", "mask": "true", "loss": 11.4, "seed": 0},
        {"class": "train", "mask": "whole", "loss": 17.4, "seed": 0},
    ],
    "environment": {"torch": "2.9", "python": "3.12", "cores": 2, "device": "cpu"},
    "commit": "<abc>",
}


class Page(HTMLParser):
    """Collects table cells, pictures and unclosed tags."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.images, self.open, self.marked = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag != "meta":
            self.open.append((tag, dict(attributes)))
            if tag == "tr":
                self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] in ("td", "th"):
            self.rows[-1].append(data)
            if self.open[-1][1].get("class") == "lowest":
                self.marked.append(data)


def test_page(tmp_path):
    figure, axes = plt.subplots(figsize=(2, 1))
    axes.plot([0, 1])
    save_figure(figure, tmp_path / "figures" / "first_cases.png", 'Masks of a "train" & a boat')
    plt.close(figure)
    committed = {"rows": [row("clims", 0.55, seed=0), row("clims", 0.57, seed=1)]}
    render_report(RESULTS, tmp_path / "figures", tmp_path / "report.html", committed)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert not page.open  # every tag is closed
    assert "&lt;abc&gt;" in text and "<abc>" not in text
    assert "http" not in text and "<script" not in text and "<link" not in text
    first = ["CLIMS maps, before any refinement (VOC2012 train)", "56.6", "56.1", "56.0 ± 1.4"]
    assert first in page.rows
    assert ["Gain of CLIMS masks over CCT (Table 1, val)", "3.7", "6.7", "-"] in page.rows
    assert ["clims", "56.1", "56.0 ± 1.4", "40.0", "25.0", "10.0"] in page.rows
    assert ["CCT + CLIMS", "76.9", "75.8"] in page.rows
    assert ["clip", "test", "0", "12.5"] in page.rows
    assert page.marked == ["11.4"]
    (image,) = page.images
    assert image["alt"] == 'Masks of a "train" & a boat'
    with Image.open(tmp_path / "figures" / "first_cases.png") as picture:
        assert (image["width"], image["height"]) == tuple(map(str, picture.size))


def test_page_of_almost_nothing(tmp_path):
    render_report({"rows": []}, tmp_path / "none", tmp_path / "report.html")
    assert not Page((tmp_path / "report.html").read_text()).images


def test_figures_need_words(tmp_path):
    with pytest.raises(ValueError, match="cannot see"):
        save_figure(plt.figure(), tmp_path / "x.png", " ")
    plt.close("all")


def test_gain_is_taken_seed_by_seed():
    rows = [
        row("cct", 0.5, 0),
        row("cct", 0.6, 1),
        row("cct_clims", 0.55, 0),
        row("cct_clims", 0.67, 1),
        row("cct_clims", 0.9, 2),
    ]
    mean, spread, seeds = beside_the_paper(rows)[-1][2]
    assert (mean, seeds) == (pytest.approx(0.06), 2)
    assert spread == pytest.approx(0.0002**0.5)


def test_no_drawn_row_stands_under_two_names():
    scores = {"clims": 0.64, "clims_walk": 0.67, "deeplab_clims": 0.63, "cct": 0.61}
    scores |= {"cct_clims": 0.68, "puzzle_cam": 0.33}
    ours = [mean for _, _, mean in beside_the_paper([row(m, v) for m, v in scores.items()]) if mean]
    mious = [round(mean, 4) for mean, _, _ in ours if round(mean, 4) in scores.values()]
    assert sorted(mious) == sorted(set(mious)) and 0.64 in mious and 0.67 in mious


def test_a_run_on_voc_stands_beside_what_was_measured_as_it_was():
    theirs = {"published_rule": {"threshold": 0.35, "miou": 0.57}}
    rows = [
        row("clims", 0.4) | {"split": "val"},
        row("clims", 0.55) | {"split": "train_labelled"} | theirs,
        row("clims_walk", 0.7) | {"split": "train_labelled", "profile": "voc2012"},
        row("puzzle_cam", 0.5) | {"split": "val"},
        row("cct", 0.73) | {"split": "val"},
    ]
    found = {what: ours and ours[0] for what, _, ours in beside_the_paper(rows)}
    assert found["CLIMS maps, before any refinement (VOC2012 train)"] == 0.57  # not val's
    assert found["CLIMS maps after random walk (VOC2012 train)"] == 0.7
    assert found["improved release: after IRNet (VOC2012 train)"] is None  # another recipe
    assert found["PuzzleCAM: boat (authors' table, ResNeSt-101)"] is None  # another backbone
    assert found["Semi-supervised: CCT (Table 1, val)"] == 0.73
