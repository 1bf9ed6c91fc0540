"""The four CLIMS losses at values worked by hand, and their gradients by finite differences."""

import math
import runpy

import pytest
import torch

from clims_lib import losses, oracle
from clims_lib.config import load_profile
from clims_lib.losses import area_loss, btm_loss, cbs_loss, clims_loss, cut_out, otm_loss
from clims_lib.losses import similarities as measure
from clims_lib.stages import methods
from clims_lib.stages.criterion import loss_weights

LABELS = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
S = torch.tensor([[0.5, 0.9], [0.25, 0.8]])
NAN = float("nan")
PAPER = {"otm": 10.0, "btm": 24.0, "cbs": 1.0, "reg": 0.2}


def test_otm_and_btm_by_hand():
    # absent classes take no part: picture 0 counts only its first class
    assert otm_loss(S, LABELS).item() == pytest.approx(
        -(math.log(0.5) + math.log(0.25) + math.log(0.8)) / 2, abs=1e-6
    )
    assert btm_loss(S, LABELS).item() == pytest.approx(
        -(math.log(0.5) + math.log(0.75) + math.log(0.2)) / 2, abs=1e-6
    )


def test_both_forms_of_cbs_by_hand():
    s = torch.tensor([[[0.2, 0.4, NAN], [0.9, 0.9, 0.9]]])
    labels = torch.tensor([[1.0, 0.0]])
    mean_form = -(math.log(0.8) + math.log(0.6)) / 2
    assert cbs_loss(s, labels).item() == pytest.approx(mean_form, abs=1e-6)
    # the thresholded form sums only the similarities above 0.26
    assert cbs_loss(s, labels, 0.26).item() == pytest.approx(-math.log(0.6), abs=1e-6)


def test_the_sum_weighs_the_terms():
    cams = torch.full((2, 2, 3, 3), 0.25)
    background = torch.full((2, 2, 1), 0.5)
    total, terms = clims_loss(S, S, background, cams, LABELS, weights=PAPER)
    assert area_loss(cams).item() == pytest.approx(0.25)
    by_hand = 10 * terms["otm"] + 24 * terms["btm"] + 1.5 * math.log(2) + 0.2 * 0.25
    assert total.item() == pytest.approx(by_hand.item(), rel=1e-6)
    plain = 10.0 * terms["otm"] + 24.0 * terms["btm"] + 1.0 * terms["cbs"] + 0.2 * terms["reg"]
    assert torch.equal(total, plain)
    backwards = dict(reversed(PAPER.items()))  # the order is that of the terms: the same bits
    assert torch.equal(clims_loss(S, S, background, cams, LABELS, weights=backwards)[0], total)
    only, all_terms = clims_loss(S, S, background, cams, LABELS, weights={"reg": 4.0})
    assert only.item() == pytest.approx(1.0) and all_terms == terms  # the others are still told


def test_a_weight_of_no_term_is_refused():
    measured = S, S, S[..., None], torch.zeros(2, 2, 3, 3), LABELS
    with pytest.raises(ValueError, match="no loss term 'cbz'; did you mean cbs"):
        clims_loss(*measured, weights=PAPER | {"cbz": 1.0})
    with pytest.raises(ValueError, match="no term has a weight; known: otm, btm, cbs, reg"):
        clims_loss(*measured, weights={})


def test_weights_come_from_the_profile():
    profile = load_profile("mini", ["losses.weights.otm=3"])
    assert loss_weights(profile) == {"otm": 3.0, "btm": 18.0, "cbs": 8.0, "reg": 180.0}
    without = loss_weights(profile, "clims_no_cbs")
    assert without == {"otm": 3.0, "btm": 18.0, "cbs": 0.0, "reg": 180.0}
    with pytest.raises(ValueError, match="no loss term 'rge'; did you mean reg"):
        loss_weights(load_profile("mini", ["losses.weights.rge=1"]))


def test_a_fifth_term_is_one_entry(monkeypatch):
    """How much a mask wavers from column to column: in the sum, the oracle check, the ablations."""

    def waver(m):
        return m.cams.diff(dim=3).abs().mean()

    monkeypatch.setitem(losses.TERMS, "waver", waver)
    cams = torch.tensor([0.0, 1.0, 0.0]).expand(2, 2, 3, 3)
    measured = S, S, torch.full((2, 2, 1), 0.5), cams, LABELS
    total, terms = clims_loss(*measured, weights=PAPER | {"waver": 7.0})
    without, _ = clims_loss(*measured, weights=PAPER)
    assert list(terms) == ["otm", "btm", "cbs", "reg", "waver"] and terms["waver"] == 1
    assert total.item() == pytest.approx(without.item() + 7, rel=1e-6)

    thing = torch.zeros(1, 8, 8)
    thing[:, 2:6, 2:6] = 1
    rows = oracle.losses_at_masks(
        lambda x: torch.ones(len(x), 1),
        torch.zeros(1, 3, 8, 8),
        thing,
        1 - thing,
        0,
        torch.full((1, 1), 0.5),
        torch.full((1, 1, 1), 0.5),
        weights=PAPER | {"waver": 7.0},
        stride=4,
    )
    assert rows["true"]["waver"] == pytest.approx(2 * 4 / (8 * 7))  # two edges in four rows
    assert rows["whole"]["waver"] == 0

    module = runpy.run_path(methods.__file__)  # as a fresh import would see it
    assert module["METHODS"]["clims_no_waver"].without == "waver"


def test_perfect_and_hopeless_similarities_stay_finite():
    extreme = torch.tensor([[0.0, 1.0], [-0.3, 1.0]])
    assert otm_loss(extreme, LABELS).isfinite() and btm_loss(extreme, LABELS).isfinite()


@pytest.mark.parametrize("loss", [otm_loss, btm_loss])
def test_gradient_agrees_with_finite_differences(loss):
    s = S.clone().requires_grad_()
    loss(s, LABELS).backward()
    for i in range(2):
        for j in range(2):
            step = torch.zeros(2, 2)
            step[i, j] = 1e-3
            slope = (loss(S + step, LABELS) - loss(S - step, LABELS)) / 2e-3
            assert s.grad[i, j].item() == pytest.approx(slope.item(), abs=2e-3)


def test_similarities_agree_with_one_pair_at_a_time():
    g = torch.Generator().manual_seed(0)
    images, cams = torch.randn(2, 3, 8, 8, generator=g), torch.rand(2, 2, 8, 8, generator=g)
    project = torch.randn(192, 5, generator=g)
    unit = lambda x: x / x.norm(dim=-1, keepdim=True)  # noqa: E731
    encode = lambda x: unit(x.flatten(1) @ project)  # noqa: E731
    text, ground = unit(torch.randn(2, 5, generator=g)), unit(torch.randn(2, 2, 5, generator=g))
    ground[1, 1] = NAN  # the second class has one background text only
    seen, left, behind = measure(encode, images, cams, LABELS, text, ground)
    for b, k in LABELS.nonzero().tolist():
        inside = encode((images[b] * cams[b, k])[None])[0]
        outside = encode((images[b] * (1 - cams[b, k]))[None])[0]
        assert seen[b, k].item() == pytest.approx((inside @ text[k]).item(), abs=1e-5)
        assert left[b, k].item() == pytest.approx((outside @ text[k]).item(), abs=1e-5)
        assert behind[b, k, 0].item() == pytest.approx((inside @ ground[k, 0]).item(), abs=1e-5)
    assert behind[1, 1, 1].isnan()


def test_bad_input_says_so():
    with pytest.raises(ValueError, match="agree"):
        otm_loss(S, LABELS[:1])
    with pytest.raises(ValueError, match="no class is present"):
        cut_out(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4), torch.zeros(1, 2))


def test_contrastive_loss_with_and_without_shared_texts():
    from clims_lib.clip_model import contrastive_loss, same_text_matrix

    x = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    texts = ["a train", "a train", "a cow"]
    t = x[[0, 0, 2]]  # equal words have equal features
    e = (5 * x @ t.T).exp()
    plain = -sum(
        math.log(e[i, i] / e[i].sum()) + math.log(e[i, i] / e[:, i].sum()) for i in range(3)
    )
    scale = torch.tensor(5.0)
    assert contrastive_loss(x, t, scale).item() == pytest.approx(plain / 6, abs=1e-5)
    e[0, 1] = e[1, 0] = 0  # left out of each other's softmax
    fair = -sum(
        math.log(e[i, i] / e[i].sum()) + math.log(e[i, i] / e[:, i].sum()) for i in range(3)
    )
    same = same_text_matrix(texts)
    assert contrastive_loss(x, t, scale, same).item() == pytest.approx(fair / 6, abs=1e-5)
