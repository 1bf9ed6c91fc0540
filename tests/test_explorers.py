"""The explorers: what they compute, by hand, and that a moved control shows. No browser here."""

import hashlib
import html as stdlib_html
import io
import math
import re

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from conftest import profile_of
from PIL import Image

from clims_lib import clip_model, explore, metrics, oracle, plots
from clims_lib.config import load_profile
from clims_lib.explore import cams, crf, html, losses, panel, prompts
from clims_lib.explore.cases import Case, Cases
from clims_lib.explore.panel import Panel, View, slider
from clims_lib.stages import maps
from clims_lib.stages.clip import clip_texts
from clims_lib.stages.criterion import loss_weights
from clims_lib.stages.masks import pseudo_masks, read_folder
from clims_lib.stages.methods import trainers
from clims_lib.stages.segmentations import make_segmentations

TRAIN, BORDER = 6, 255


def case_of(truth, home, image=None, label=TRAIN):
    truth = torch.tensor(truth, dtype=torch.uint8)
    image = torch.zeros(3, *truth.shape, dtype=torch.uint8) if image is None else image
    return Case("p", label, image, truth, torch.tensor(home) > 0, "railroad")


@pytest.fixture
def small():
    """A train of four pixels over six of railroad; the pixel right of the train is a border."""
    return case_of(
        [[6, 6, 255, 0], [6, 6, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]]
    )


def test_a_mask_is_judged_by_hand(small):
    mask = torch.tensor([[6, 6, 6, 0], [0, 0, 6, 0], [6, 6, 0, 2]], dtype=torch.uint8)
    found = cams.judge(small, mask)
    # of the train's 4 pixels 2 are found, and 3 others that count: the border's does not
    assert found == pytest.approx(
        {"IoU": 2 / 7, "precision": 2 / 5, "recall": 2 / 4, "leak": 3 / 6}
    )


def test_nothing_found_and_nothing_to_leak_into_are_nan(small):
    empty = torch.zeros(3, 4, dtype=torch.uint8)
    nowhere = case_of(small.truth.tolist(), [[0] * 4] * 3)
    found = cams.judge(nowhere, empty)
    assert found["IoU"] == found["recall"] == 0
    assert math.isnan(found["precision"]) and math.isnan(found["leak"])
    assert html.per_cent(found["leak"]) == "–" and html.per_cent(0.1234) == "12.3 %"


def test_pictures_of_a_mask(small):
    mask = small.truth.clamp(max=6)
    plain, coloured, truth = cams.draw(small, None, mask, 1.0)
    assert plain.shape == coloured.shape == (3, 4, 3) and plain.dtype == coloured.dtype == np.uint8
    assert plain.max() == 0 and coloured[0, 0].tolist() == [39, 177, 137]  # class 6
    assert truth[0, 2].tolist() == [255, 255, 255]
    shown = cams.draw(small, torch.linspace(0, 1, 12).view(3, 4), mask, 0.0)
    assert all(pixels.max() == 0 for pixels in shown)  # opacity 0: the black picture alone


def test_a_mask_grows_from_the_left_part_by_part():
    first, second = torch.zeros(2, 4, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool)
    first[0, :2] = True
    second[1] = True
    sums = {
        t: losses.growing_mask((first, second), t).sum().item()
        for t in (0, 0.49, 0.5, 1, 1.25, 1.75, 2)
    }
    assert sums == {0: 0, 0.49: 0, 0.5: 1, 1: 2, 1.25: 3, 1.75: 5, 2: 6}
    assert losses.growing_mask((first, second), 0.5)[0].tolist() == [1, 0, 0, 0]


def test_the_three_parts_are_the_picture(small):
    parts = torch.stack(losses.parts_of(small))
    assert (parts.sum(0) == 1).all() and parts.sum((1, 2)).tolist() == [4, 6, 2]
    names = [losses.describe_mask(small, "train", t) for t in (0, 0.15, 1, 1.5, 2.25)]
    assert names == [
        "0 % of the train",
        "15 % of the train",
        "100 % of the train",
        "train + 50 % of the railroad",
        "train + railroad + 25 % of the rest",
    ]


def test_prompts_are_parsed_and_bad_ones_say_what_to_type():
    nouns, texts = prompts.parse_texts(" tram ", "rails,, tram line ,", "a photo of {}")
    assert nouns == ["tram", "rails", "tram line"]
    assert texts == ["a photo of tram", "a photo of rails", "a photo of tram line"]
    for typed, told in (
        (("", "rails", "{}"), "class text is empty"),
        (("train", " , ", "{}"), "no background text"),
        (("train", "rails", "a photo"), "needs one {}"),
        (("train", "rails", "{} and {}"), "needs one {}"),
        (("train", "rails", "{0} {}"), "needs one {}"),
    ):
        with pytest.raises(ValueError, match=told):
            prompts.parse_texts(*typed)


def test_answers_by_hand():
    regions = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    texts = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    first, second = prompts.ask(regions, texts, 0.9)
    log = math.log
    assert first == pytest.approx([1, 0.8, 0, -log(0.2) / 2, 0], abs=2e-4)
    both = -log(1 - 0.96) - log(0.2)
    assert second == pytest.approx([0.6, 0.96, 0.8, both / 2, -log(0.04)], abs=1e-3)


def test_a_quick_crf_is_the_crf_and_a_large_picture_keeps_its_size():
    profile, g = load_profile("tiny"), torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 24, 20), generator=g, dtype=torch.uint8)
    cams = torch.rand(2, 24, 20, generator=g)
    expected = maps.refine(profile, image[None], cams[None], [0.4], gaussian_weight=3.0)[0, 0]
    assert torch.equal(crf.quick_refine(profile, image, cams, 0.4, gaussian_weight=3.0), expected)
    blob = torch.zeros(1, 375, 333)
    blob[:, 100:300, 100:200] = 1
    image = (255 * blob).to(torch.uint8).repeat(3, 1, 1)
    mask = crf.quick_refine(profile, image, blob, 0.4)
    assert mask.shape == (375, 333) and (mask == blob[0]).float().mean() > 0.99


def test_numbers_as_html_escape_what_was_typed_and_shade_by_column():
    page = html.shaded_table([[0.1, 5.0], [0.9, 5.0]], ["a", "<b>"], ["s", "t"], "title")
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert re.findall(r"rgba\(0, 114, 178, ([\d.]+)\)", page) == ["0.00", "0.00", "0.50", "0.00"]
    widths = re.findall(r"width: ([\d.]+)%; height", html.bar_table({"x": 1, "sum": 9}, 4, "terms"))
    assert widths == ["25.0", "100.0"]
    assert "&lt;i&gt;" in html.message("<i>") and "&lt;i&gt;" in html.cards({"<i>": "1"})


def pixels_of(image):
    return np.asarray(Image.open(io.BytesIO(image.value)))


def test_small_pictures_are_enlarged_in_squares_and_large_ones_are_not():
    two = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    large = np.asarray(Image.open(io.BytesIO(panel.png(two))))
    assert large.shape == (160, 320, 3)
    assert (large[:, :160] == [255, 0, 0]).all() and (large[:, 160:] == [0, 0, 255]).all()
    assert Image.open(io.BytesIO(panel.png(np.zeros((10, 500, 3), np.uint8)))).size == (500, 10)
    with pytest.raises(ValueError, match="uint8"):
        panel.png(np.zeros((2, 2, 3)))


def test_a_panel_follows_its_controls_once_each_and_shows_what_is_wrong():
    asked = []

    def look(grey):
        asked.append(grey)
        if grey > 200:
            raise ValueError("too <bright>")
        return View({f"grey {grey:.0f}": np.full((1, 1, 3), grey, np.uint8)}, f"<b>{grey:.0f}</b>")

    control = slider("grey", 10, 0, 255, 1, "how bright", ".0f")
    shown = Panel("Toy", {"grey": control}, look)
    assert control.continuous_update and control.description == "grey" and control.tooltip
    assert asked == [10] and pixels_of(shown.images[0]).max() == 10
    control.value = 20
    control.value = 20
    assert asked == [10, 20] and pixels_of(shown.images[0]).max() == 20
    assert "grey 20" in shown.captions[0].value and "<b>20</b>" in shown.numbers.value
    control.value = 250
    assert "too &lt;bright&gt;" in shown.numbers.value and pixels_of(shown.images[0]).max() == 20
    control.value = 30
    assert "<b>30</b>" in shown.numbers.value
    stored = shown._repr_mimebundle_()
    stored = stored[0] if isinstance(stored, tuple) else stored
    assert stored["text/plain"].startswith("Toy: run this cell in JupyterLab")


def state_of(shown):
    """(digests of the pictures, text of the numbers)."""
    pictures = [hashlib.sha256(image.value).hexdigest() for image in shown.images]
    return pictures, stdlib_html.unescape(re.sub(r"<[^>]*>", " ", shown.numbers.value)).split()


@pytest.fixture(scope="module")
def tiny():
    return load_profile("tiny")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, changes",
    [
        (
            "cam_explorer",
            {"opacity": 0.2, "method": "PuzzleCAM", "threshold": 0.02, "klass": "boat"},
        ),
        ("loss_explorer", {"t": 1.8, "klass": "person"}),
        ("crf_tuner", {"threshold": 0.05, "klass": "cow"}),
        ("prompt_lab", {"noun": "tram", "background": "sea", "template": "{}", "klass": "boat"}),
    ],
)
def test_every_control_of_every_explorer_shows(tiny, name, changes):
    shown = getattr(explore, name)(tiny)
    assert set(changes) <= set(shown.controls)
    for control, value in changes.items():
        before = state_of(shown)
        shown.controls[control].value = value
        assert state_of(shown) != before, control
    assert all(c.description and c.tooltip for c in shown.controls.values())


@pytest.mark.slow
def test_the_cam_explorer_says_what_the_stages_say(tiny):
    """At each method's own threshold, IoU of a picture is that of the masks that are scored."""
    cases, shown = Cases(tiny), explore.cam_explorer(tiny)
    picture = cases.numbers("train")[0]
    for title, method in cams.shown_methods(tiny).items():
        shown.controls["method"].value = title
        masks = (
            read_folder(tiny, make_segmentations(tiny, method, "val"), "val")
            if method in trainers(tiny)
            else pseudo_masks(tiny, method, "val")
        )
        expected = metrics.picture_iou(cases.truth[picture][None], masks[picture][None], TRAIN)
        assert html.per_cent(float(expected)) in shown.numbers.value, title
        assert shown.controls["threshold"].disabled == (title == "CCT")


@pytest.mark.slow
def test_the_loss_explorer_at_1_is_the_oracle_at_the_true_mask(tiny):
    measure, model = losses.open_judge(tiny)
    cases = Cases(tiny)
    case = cases.case(cases.numbers("train")[0], "train")
    thing = case.thing.float()[None]
    expected = oracle.losses_at_masks(
        clip_model.image_encoder(model),
        clip_model.normalise_for_clip(case.image[None].float() / 255),
        thing,
        case.home.float()[None],
        TRAIN - 1,
        *clip_texts(tiny, model),
        weights=loss_weights(tiny),
        stride=tiny.cam.stride,
    )["true"]
    mask = losses.growing_mask(losses.parts_of(case), 1.0)
    found = measure(case, mask)
    assert torch.equal(mask, thing[0]) and found["sum"] == pytest.approx(expected["loss"], rel=1e-4)
    assert found["terms"]["reg"] == pytest.approx(
        tiny.losses.weights["reg"] * expected["reg"], rel=1e-4
    )


@pytest.mark.slow
def test_the_prompt_lab_takes_unknown_words_and_explains_what_it_cannot_take(tiny):
    lab = explore.prompt_lab(tiny)
    lab.controls["noun"].value = "zzyzx 漢字"
    assert "zzyzx 漢字" in lab.numbers.value
    for text in ("", "train " * 40):
        lab.controls["noun"].value = text
        assert 'role="status"' in lab.numbers.value
    assert "too long: this CLIP reads 20 tokens" in lab.numbers.value
    lab.controls["noun"].value = "train"
    assert "<table" in lab.numbers.value


@pytest.mark.slow
def test_the_tuners_button_brings_the_profile_back(tiny):
    tuner = explore.crf_tuner(tiny)
    before = {name: control.value for name, control in tuner.controls.items()}
    for name in ("bilateral_weight", "iterations", "threshold"):
        tuner.controls[name].value = tuner.controls[name].max
    button = next(w for w in tuner.children[1].children if isinstance(w, widgets.Button))
    button.click()
    assert {name: control.value for name, control in tuner.controls.items()} == before


@pytest.mark.slow
def test_static_figures_hold_what_the_explorers_show(tiny):
    figure = explore.cam_figure(tiny, ["CAM", "CCT"])
    assert len(figure.axes) == 4 * 3 and figure.axes[0].get_title().startswith("CAM at ")
    assert len(explore.loss_figure(tiny).axes) == 3 * 5
    columns = explore.prompt_figure(tiny).axes[0].get_xticklabels()
    assert "railroad" in [column.get_text() for column in columns]
    assert len(explore.crf_figure(tiny).axes) == 4 * len(Cases(tiny).classes[:6])
    with pytest.raises(ValueError, match="no method 'CLIM' here; did you mean CLIMS"):
        explore.cam_explorer(tiny, ["CLIM"])
    plots.plt.close("all")


def test_what_is_not_here_is_not_offered(small_voc):
    lost = "clip_checkpoint=nowhere.pt"
    profile = profile_of(small_voc, lost)  # its masks for CCT would need CLIP, too
    assert list(cams.shown_methods(profile)) == ["CAM", "PuzzleCAM"]
    other = profile_of(small_voc, lost, "pseudo.method=cam_walk")
    assert list(cams.shown_methods(other)) == ["CAM", "PuzzleCAM", "CRF", "CCT"]
    cases = Cases(profile)
    case = cases.case(0, cases.first)  # without grounds: what lies around
    assert case.home_name == "surroundings" and case.image.shape[1:] == case.truth.shape
    assert not (case.home & case.thing).any() and case.home.any()
    assert not (case.home & (case.truth == BORDER)).any()
