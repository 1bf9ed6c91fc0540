"""CCT: its losses at values worked by hand, where gradients may flow, and training."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clims_lib.cct import (
    cct_loss,
    cct_training_loss,
    consistency,
    cross_entropy,
    ramp_up,
    truth_threshold,
)
from clims_lib.cct_network import CCT, Decoder, PyramidPooling
from clims_lib.optimisers import new_optimiser, new_schedule
from clims_lib.perturbations import PERTURBATIONS
from clims_lib.training import train


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_model(perturbations=tuple(PERTURBATIONS), seed=0, **more):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU())
        return CCT(backbone, 8, 3, feature_channels=6, perturbations=perturbations, **more)


def batch(seed=0, count=2):
    g = seeded(seed)
    images = torch.randn(count, 3, 16, 16, generator=g)
    masks = torch.randint(0, 3, (count, 16, 16), generator=g, dtype=torch.uint8)
    return images, masks


# ---- The network


def test_the_decoder_starts_as_plain_enlargement():
    decoder, z = Decoder(5, 3, factor=4), torch.rand(2, 5, 4, 4)
    start = decoder[0](z)
    torch.testing.assert_close(decoder(z), F.interpolate(start, scale_factor=4, mode="nearest"))


@pytest.mark.parametrize("seed", range(20))
def test_every_label_can_be_learnt_from_the_start(seed):
    """No score starts where a ReLU passes no gradient on, and no label is far ahead."""
    torch.manual_seed(seed)
    decoder, z = Decoder(32, 7, factor=4), torch.randn(4, 32, 8, 8).relu()
    scores = decoder(z)
    assert scores.min() > 0 and scores.mean((0, 2, 3)).std() < 1
    scores.sum().backward()
    by_hand = (16 * z.sum((0, 2, 3))).expand(7, -1)  # each score is copied to 4 x 4 pixels
    torch.testing.assert_close(decoder[0].weight.grad[:, :, 0, 0], by_hand)


def test_the_decoder_can_give_negative_scores():
    decoder = Decoder(5, 3, factor=2)
    nn.init.constant_(decoder[-2].bias, -1.0)
    nn.init.constant_(decoder[0].weight, 0.0)
    nn.init.constant_(decoder[0].bias, 0.0)
    assert (decoder(torch.rand(1, 5, 2, 2)) == -1).all()


def test_sizes():
    model = small_model().train()
    images, _ = batch()
    z = model.encode(images)
    assert z.shape == (2, 6, 4, 4) and model(images).shape == (2, 3, 16, 16)
    scores = model.auxiliary_scores(z, model.main_decoder(z), seeded())
    assert len(scores) == 7 and all(s.shape == (2, 3, 16, 16) for s in scores)
    odd = torch.randn(2, 3, 18, 22)  # not a multiple of the stride: scores still fit the picture
    assert model(odd).shape == (2, 3, 18, 22)


def test_coarser_decoders_learn_from_every_other_pixel():
    model = small_model(factor=2).eval()
    images, masks = batch()
    z = model.encode(images)
    assert model.main_decoder(z).shape == (2, 3, 8, 8) and model(images).shape == (2, 3, 16, 16)
    _, parts = cct_loss(
        model,
        images,
        masks,
        images,
        masks,
        step=5,
        total_steps=10,
        generator=seeded(),
        weak_weight_main=1.0,
    )
    scores = model.main_decoder(z)
    by_hand = F.cross_entropy(scores, masks[:, 1::2, 1::2].long())
    assert parts["weak_main"].item() == pytest.approx(by_hand.item(), abs=1e-5)


# ---- Losses by hand


def two_pixels():
    """Scores (1, 2, 1, 3) with the true label at probability 0.8 and 0.3; the third is ignored."""
    true = torch.tensor([0.8, 0.3, 0.5])
    masks = torch.tensor([[[1, 1, 255]]], dtype=torch.uint8)
    return torch.stack([1 - true, true]).log()[None, :, None], masks


@pytest.mark.parametrize(
    "threshold, expected",
    [
        (None, -(math.log(0.8) + math.log(0.3)) / 2),  # plain cross entropy
        (0.9, -(math.log(0.8) + math.log(0.3)) / 2),  # both are below
        (0.5, -math.log(0.3)),  # 0.8 is known well enough
        (0.2, 0.0),  # nothing is left to learn
    ],
)
def test_annealed_cross_entropy_by_hand(threshold, expected):
    assert cross_entropy(*two_pixels(), threshold).item() == pytest.approx(expected, abs=1e-6)


def test_only_pixels_that_count_get_a_gradient():
    scores, masks = two_pixels()
    scores.requires_grad_()
    cross_entropy(scores, masks, 0.5).backward()
    assert (scores.grad != 0).any(1).tolist() == [[[False, True, False]]]


def test_a_batch_without_labelled_pixels_is_zero_not_nan():
    scores, masks = two_pixels()
    assert cross_entropy(scores, torch.full_like(masks, 255)).item() == 0


def test_ramp_by_hand():
    assert ramp_up(0, 10) == pytest.approx(math.exp(-5))
    assert ramp_up(5, 10) == pytest.approx(math.exp(-1.25))
    assert ramp_up(10, 10) == ramp_up(99, 10) == ramp_up(0, 0) == 1


def test_truth_threshold_by_hand():
    assert truth_threshold(0, 100, 4) == pytest.approx(0.25)
    assert truth_threshold(20, 100, 4) == pytest.approx(0.25 + 0.65 * (1 - math.exp(-2.5)))
    assert truth_threshold(40, 100, 4) == truth_threshold(100, 100, 4)
    assert truth_threshold(100, 100, 4) == pytest.approx(0.9, abs=0.005)


def test_consistency_by_hand():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    main, auxiliary = (x.log().view(1, 3, 1, 1).expand(1, 3, 2, 2) for x in (p, q))
    squares = 0.3**2 + 0.1**2 + 0.4**2
    assert consistency(auxiliary, main).item() == pytest.approx(squares / 3, rel=1e-5)
    assert consistency(auxiliary, main, "sum_labels").item() == pytest.approx(squares, rel=1e-5)


def test_consistency_gradient_agrees_with_finite_differences():
    main = torch.randn(2, 3, 2, 2, generator=seeded(), dtype=torch.double)
    auxiliary = torch.randn(2, 3, 2, 2, generator=seeded(1), dtype=torch.double).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: consistency(a, main), auxiliary)


# ---- Where gradients may flow


def test_consistency_never_teaches_the_main_decoder():
    model = small_model().train()
    images, _ = batch()
    z = model.encode(images)
    main = model.main_decoder(z)
    sum(consistency(a, main) for a in model.auxiliary_scores(z, main, seeded())).backward()
    assert all(p.grad is None for p in model.main_decoder.parameters())
    # the bias: where an object is seen everywhere, object_mask leaves no features for the weight
    assert all(d[0].bias.grad.abs().sum() > 0 for d in model.auxiliary_decoders)
    assert model.backbone[0].weight.grad.abs().sum() > 0  # but the encoder


def weak_loss(model, weak_masks=None, **weights):
    """The loss and its parts at the end of training where no labelled pixel counts."""
    images, masks = batch()
    weak_images, _ = batch(1)
    return cct_loss(
        model,
        images,
        torch.full_like(masks, 255),
        weak_images,
        weak_masks,
        step=9,
        total_steps=10,
        generator=seeded(),
        **weights,
    )


def test_nor_does_the_whole_loss():
    model = small_model().train()
    loss, parts = weak_loss(model, weak_weight_auxiliary=0.0)
    loss.backward()
    assert parts["supervised"] == 0 and parts["consistency"] > 0
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in model.main_decoder.parameters())


def test_pseudo_masks_teach_the_decoders_that_they_are_given_to():
    for weights, reached in (
        ({"weak_weight_auxiliary": 1.0}, (False, True)),
        ({"weak_weight_auxiliary": 0.0, "weak_weight_main": 1.0}, (True, False)),
    ):
        model = small_model(("dropout",)).train()
        weak_loss(model, batch(1)[1], unsupervised_weight=0.0, **weights)[0].backward()
        decoders = model.main_decoder, model.auxiliary_decoders[0]
        taught = [d[0].weight.grad is not None and bool(d[0].weight.grad.any()) for d in decoders]
        assert tuple(taught) == reached


def test_the_whole_loss_is_the_weighted_sum_of_its_parts():
    model = small_model().train()
    images, masks = batch()
    weights = {"unsupervised_weight": 3.0, "weak_weight_auxiliary": 0.4, "weak_weight_main": 0.2}
    loss, parts = cct_loss(
        model,
        images,
        masks,
        *batch(1),
        step=1,
        total_steps=10,
        ramp=0.5,
        generator=seeded(),
        **weights,
    )
    parts = {name: part.item() for name, part in parts.items()}
    rise = math.exp(-5 * (1 - 1 / 5) ** 2)
    by_hand = (
        parts["supervised"]
        + rise * (3 * parts["consistency"] + 0.4 * parts["weak_auxiliary"])
        + 0.2 * parts["weak_main"]
    )
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert all(value > 0 for value in parts.values())


# ---- Training


def fit(model, batches, steps, lr=1e-2, optimiser="adamw", amp=False, **more):
    generator, names = seeded(), ("accumulate", "frozen_norm", "state", "save", "save_every")
    how = {name: more.pop(name) for name in names if name in more}
    chosen = new_optimiser(optimiser, model.parameters(), lr, 1e-4, fused=False)
    return train(
        model,
        cct_training_loss(steps=steps, generator=generator, **more),
        batches,
        steps=steps,
        optimiser=chosen,
        schedule=new_schedule(optimiser, chosen, steps),
        generator=generator,
        amp=amp,
        **how,
    )


def test_training_learns():
    model = small_model(("feature_noise",))
    images, _ = batch()
    masks = (images.mean(1) > 0).to(torch.uint8)
    masks[:, 8:] = 2
    once = lambda start: iter([(images, masks, None, None)] * (60 - start))  # noqa: E731
    history = fit(model, once, 60, annealed=False)
    assert history[-1]["supervised"] < 0.6 * history[0]["supervised"]
    assert history[-1]["consistency"] == 0  # without weak pictures: supervised alone


def test_every_step_knows_how_far_training_is():
    """ab-CE's threshold and the ramp are those of the step, whatever rounding does to its share."""
    images, masks = batch()
    steps, expected = 49, []
    for step in range(steps):
        model = small_model(("object_mask",)).train()
        form = {"step": step, "total_steps": steps, "generator": seeded()}
        value, _ = cct_loss(model, images, masks, images, masks, **form)
        expected.append(value.item())
    loss = cct_training_loss(steps=steps, generator=seeded())
    for step, value in enumerate(expected):
        model = small_model(("object_mask",)).train()
        assert loss(model, (images, masks, images, masks), step / steps)[0].item() == value


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_micro_batches_add_up_where_nothing_is_drawn_or_annealed(optimiser):
    """With CE and frozen batch norms, unevenly ignored masks change nothing."""
    images, masks = batch(count=6)
    masks[0], masks[1, 3:], masks[4, :, 5:] = 255, 255, 255
    models = [small_model(()), small_model(()), small_model(())]
    for model, accumulate in zip(models, (1, 2, 3), strict=True):
        history = fit(
            model,
            lambda start: [(images, masks, None, None)] * 2,
            2,
            optimiser=optimiser,
            accumulate=accumulate,
            frozen_norm=model,
            annealed=False,
        )
        assert history[0]["supervised"] == pytest.approx(history[0]["loss"])
        for a, b in zip(models[0].parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


# ---- Bad input


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"perturbations": ["cutmix"]}, "unknown perturbations .*cutmix.*choose from"),
        ({"factor": 6}, "factor is 6, but must be a power of two"),
        ({"num_labels": 1}, "give K \\+ 1"),
    ],
)
def test_a_network_that_cannot_be(settings, message):
    sizes = {"channels": 8, "num_labels": 3, "feature_channels": 6} | settings
    with pytest.raises(ValueError, match=message):
        CCT(nn.Identity(), **sizes)


def test_one_picture_is_too_few_to_train_on():
    pyramid = PyramidPooling(4, 4)
    with pytest.raises(ValueError, match="at least two pictures"):
        pyramid.train()(torch.rand(1, 4, 4, 4))
    assert pyramid.eval()(torch.rand(1, 4, 4, 4)).shape == (1, 4, 4, 4)


def test_losses_that_do_not_fit():
    scores, masks = two_pixels()
    with pytest.raises(ValueError, match="do not fit masks"):
        cross_entropy(scores, masks[:, :, :2])
    with pytest.raises(ValueError, match="'mean' or 'sum_labels'"):
        consistency(scores, scores, "sum")


def test_a_weight_whose_input_is_missing():
    model = small_model().train()
    with pytest.raises(ValueError, match="no pseudo masks"):
        weak_loss(model)
    with pytest.raises(ValueError, match="must not be negative"):
        weak_loss(model, unsupervised_weight=-1.0)
    with pytest.raises(ValueError, match="no auxiliary decoders"):
        weak_loss(small_model(()).train())
    with pytest.raises(ValueError, match="without weak_images"):
        cct_loss(model, *batch(), None, batch()[1], step=0, total_steps=1, generator=seeded())
