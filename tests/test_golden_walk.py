"""IRNet's and AffinityNet's walks against what the released code gave, and by hand."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from clims_lib import crf, irnet
from clims_lib.backbones import ThinResNet
from clims_lib.random_walk import affinity, affinity_loss, inner, offsets, pairs, random_walk, shift
from clims_lib.seeds import cam_to_mask, normalise_cam, sure_mask
from clims_lib.training import train

GOLDEN = json.loads((Path(__file__).parent / "golden" / "irn_walk.json").read_text())
CASES = {case["name"]: (case["inputs"], case["outputs"]) for case in GOLDEN["cases"]}
PATHS = [
    "irn: PathIndex radius 5 size (6, 12)",
    "irn: PathIndex radius 5 size (9, 13)",
    "irn: PathIndex radius 3 size (5, 7)",
]
PSA_PAIRS = [
    "psa: get_indices_of_pairs radius 5 size (6, 9)",
    "psa: get_indices_of_pairs radius 5 size (6, 12)",
    "psa: get_indices_of_pairs radius 3 size (5, 7)",
]
EDGES = ["irn: propagate_to_edge 6x7", "irn: propagate_to_edge 4x5"]
SURE = [f"irn: cam_to_ir_label without CRF, {name} defaults" for name in ("irn", "CLIMS root")]
MASKS = ["irn: make_sem_seg, irn default", "irn: make_sem_seg, CLIMS root default"]
LOSS = "irn: IRN training loss, radius 3 on 6x8 (training default is radius 10 on 128x128)"
PSA_WALK = (
    "psa: psa affinity and walk (beta 8, logt 8, background score (1 - max)^alpha with alpha 16)"
)


def case(name):
    return CASES[name]


def close(found, expected, rtol=1e-6, atol=1e-8):
    torch.testing.assert_close(
        found.double(), torch.as_tensor(expected, dtype=torch.float64), rtol=rtol, atol=atol
    )


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def by_length(paths):
    """The steps in the order of the released code: short paths first."""
    return sorted(paths, key=lambda step: len(paths[step]))


def psa_steps(radius):
    """AffinityNet's steps, shorter than `radius`, in its order: to the right, then row by row."""
    return sorted(offsets(math.sqrt(radius * radius - 1) + 1e-9))


def places(size, step, border):
    """The flat indices of `step`'s ends, from every place of `inner`."""
    flat = torch.arange(size[0] * size[1]).view(size).float()
    return inner(shift(flat, *step, fill=-1.0), border).flatten().int().tolist()


@pytest.mark.parametrize("name", PATHS)
def test_paths(name):
    inputs, known = case(name)
    radius, size = inputs["radius"], inputs["size_hw"]
    paths = irnet.edge_paths(radius)
    order = by_length(paths)
    assert [list(step) for step in order] == known["displacements_in_order_yx"]
    assert [[list(p) for p in paths[step]] for step in order] == [
        path for group in known["search_paths_by_length"] for path in group
    ]
    assert places(size, (0, 0), radius - 1) == known["source_indices"]
    assert [places(size, s, radius - 1) for s in order] == known["destination_indices"]
    if "path_indices" in known:
        found = [[places(size, place, radius - 1) for place in paths[step]] for step in order]
        assert found == [path for group in known["path_indices"] for path in group]


@pytest.mark.parametrize("name", PSA_PAIRS)
def test_psa_s_pairs(name):
    inputs, known = case(name)
    radius, size, steps = inputs["radius"], inputs["size_hw"], psa_steps(inputs["radius"])
    assert set(steps) == set(irnet.edge_paths(radius))
    assert len(steps) == known["displacement_count"]
    assert places(size, (0, 0), radius - 1) == known["indices_from"]
    found = [end for step in steps for end in places(size, step, radius - 1)]
    assert found == known["indices_to_flat"]


def test_too_narrow_for_the_border_says_so():
    height, width = case(
        "psa: get_indices_of_pairs radius 5 size (6, 7): 7 columns cannot hold 2*4+1"
    )[0]["size_hw"]
    with pytest.raises(ValueError, match="6 x 7 places leave nothing"):
        affinity(torch.rand(1, 2, height, width), offsets(2), border=4)


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize(
    "beta, exponent", [(10, 8), (10, 4), (10, 1), (10, 0), (8, 8)], ids=lambda n: str(n)
)
def test_walk_to_edges(name, beta, exponent):
    inputs, known = case(name)
    edge, maps = tensor(inputs["edge"])[None], tensor(inputs["cam"])[None]
    found = irnet.walk_to_edges(maps, edge, radius=inputs["radius"], beta=beta, times=2**exponent)
    expected = tensor(known[f"beta{beta}_exp{exponent}"])[:, 0][None]
    close(found, expected)
    # and in single precision
    walk = irnet.walk_to_edges(maps.float(), edge.float(), beta=beta, times=2**exponent)
    close(walk, expected, rtol=1e-4, atol=1e-6)


def dense(values, steps):
    """(1, O, h, w) -> the symmetric matrix (h * w, h * w) with ones on the diagonal."""
    h, w = values.shape[-2:]
    matrix = torch.eye(h * w, dtype=torch.float64)
    for o, (dy, dx) in enumerate(steps):
        for y in range(h):
            for x in range(w):
                if 0 <= y + dy < h and 0 <= x + dx < w:
                    here, there = y * w + x, (y + dy) * w + x + dx
                    matrix[here, there] = matrix[there, here] = values[0, o, y, x]
    return matrix


def test_dense_affinity_of_edges():
    inputs, known = case(EDGES[1])
    paths = irnet.edge_paths(inputs["radius"])
    values = irnet.path_affinity(tensor(inputs["edge"])[None], paths)
    matrix = dense(values, list(paths))
    close(matrix, known["dense_affinity_before_power"])
    close((matrix**10) / (matrix**10).sum(0), known["transition_beta10_exp0"])


@pytest.mark.parametrize("name", MASKS)
def test_masks_after_the_walk(name):
    inputs, known = case(name)
    edge, maps = tensor(inputs["edge"])[None], tensor(inputs["cam_quarter"])[None]
    height, width = inputs["picture_hw"]
    walked = irnet.walk_to_edges(maps, edge, beta=inputs["beta"], times=2 ** inputs["exp_times"])
    close(walked[0], tensor(known["walked_quarter"])[:, 0])
    full = F.interpolate(walked, scale_factor=4, mode="bilinear", align_corners=False)
    full = full[0, :, :height, :width]
    scores = normalise_cam(full, torch.ones(2), "joint")
    table = known["walked_full_after_division_by_global_max"]
    close(
        scores,
        table
        if isinstance(table, list)
        else case(MASKS[0])[1]["walked_full_after_division_by_global_max"],
        rtol=1e-5,
        atol=1e-6,
    )
    labels = torch.tensor([0] + [key + 1 for key in inputs["zero_based_class_keys"]])
    mask = labels[cam_to_mask(scores, inputs["bg_threshold"]).long()]
    assert mask.tolist() == known["label"]


@pytest.mark.parametrize("name", SURE)
def test_sure_labels(name):
    inputs, known = case(name)
    labels = torch.tensor([0] + [key + 1 for key in inputs["zero_based_class_keys"]]).byte()
    maps = torch.tensor(inputs["high_res_cams"])
    high, low = (
        labels[cam_to_mask(maps, inputs[f"{kind}_threshold"]).long()] for kind in ("fg", "bg")
    )
    assert high.tolist() == known["fg_confident"] and low.tolist() == known["bg_confident"]
    assert sure_mask(high, low).tolist() == known["label"]


def test_the_crf_of_the_labels():
    """Its constants are stated; what it does to a mask is worked out from the mask's energies."""
    stated = GOLDEN["crf"]["cam_to_ir_label (irn, CLIMS root) and make_affinity_labels"]
    sigmas = {key: crf.RELEASED_CRF[f"{key}_sxy"] for key in ("gaussian", "bilateral")}
    levels = crf.RELEASED_CRF["bilateral_srgb"] * 255
    weights = crf.RELEASED_CRF["gaussian_weight"], crf.RELEASED_CRF["bilateral_weight"]
    assert f"Gaussian sxy {sigmas['gaussian']:g} compat {weights[0]:g}" in stated
    assert f"bilateral sxy {sigmas['bilateral']:g} srgb {levels:g} compat {weights[1]:g}" in stated
    assert f"{crf.RELEASED_CRF['iterations']} iterations" in stated and "gt_prob 0.7" in stated
    g = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 9, 12, generator=g)
    masks = torch.randint(0, 3, (1, 2, 9, 12), generator=g)
    refined = crf.refine_labels(image, masks, 3)
    for mask, found in zip(masks[0], refined[0], strict=True):
        odds = torch.full((3, 9, 12), 0.15).scatter(0, mask[None], 0.7)
        q = crf.dense_crf(-odds.log()[None], image, **crf.RELEASED_CRF)
        assert torch.equal(found, q.argmax(1)[0].byte())
    assert torch.equal(crf.refine_labels(image, masks, 3, iterations=0), masks.byte())


# ---- Training -----------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """Edge logits and a displacement field that are the parameters themselves."""

    def __init__(self, inputs):
        super().__init__()
        self.edge = torch.nn.Parameter(tensor(inputs["edge_logits"]))
        self.field = torch.nn.Parameter(tensor(inputs["displacement_field"]))

    def forward(self, stages):
        return self.edge.float(), self.field.float()


def test_irnet_s_loss_and_gradients():
    inputs, known = case(LOSS)
    head, labels = Fixed(inputs), torch.tensor(inputs["labels"], dtype=torch.uint8)
    loss = irnet.irnet_training_loss(lambda images: [], inputs["radius"])
    total, parts = loss(head, (torch.zeros(2, 3, 24, 32), labels), 0.0)
    near = (known["positive_affinity_loss"] + known["negative_affinity_loss"]) / 2
    moved = (known["displacement_fg_loss"] + known["displacement_bg_loss"]) / 2
    close(parts["edge"].detach(), near)
    close(parts["displacement"].detach(), moved)
    close(total.detach(), known["total"])
    total.backward()
    close(head.edge.grad, known["d_total_d_edge_logits"], rtol=1e-5, atol=1e-8)
    close(head.field.grad, known["d_total_d_displacement"], rtol=1e-5, atol=1e-8)


def test_irnet_s_pairs_and_affinities():
    inputs, known = case(LOSS)
    paths, border = irnet.edge_paths(inputs["radius"]), inputs["radius"] - 1
    steps = by_length(paths)
    found = pairs(torch.tensor(inputs["labels"], dtype=torch.uint8), steps, border)
    names = (
        "affinity_fg_positive_labels",
        "affinity_bg_positive_labels",
        "affinity_negative_labels",
    )
    for some, name in zip(found, names, strict=True):
        assert some.flatten(2).int().tolist() == known[name]
    values = irnet.path_affinity(
        tensor(inputs["edge_logits"]).sigmoid(), {s: paths[s] for s in steps}
    )
    close(inner(values, border).flatten(2), known["affinity"])


def test_psa_s_labels_and_loss():
    labels = torch.tensor(case("psa: affinity labels radius 5 on a 12x12 label")[0]["label"])
    known = case("psa: affinity labels radius 5 on a 12x12 label")[1]
    labels, steps = labels[None].byte(), psa_steps(5)
    found = pairs(labels, steps, border=4)
    for some, name in zip(found, ("fg_positive", "bg_positive", "negative"), strict=True):
        assert some[0].flatten(1).int().tolist() == known[name]

    inputs, known = case("psa: psa affinity loss on the labels above")
    size = inner(labels, 4).shape[-2:]
    given = torch.tensor(inputs["affinity"]).view(1, 34, *size).requires_grad_()
    loss = affinity_loss(F.pad(given, (4, 4, 0, 4)), labels, steps, border=4, guard="add")
    close(loss.detach(), known["total_quarter_quarter_half"])
    loss.backward()
    close(given.grad[0, 0].flatten(), known["d_total_d_affinity_first_displacement"], rtol=1e-5)
    ours = affinity_loss(F.pad(given, (4, 4, 0, 4)), labels, steps, border=4)
    assert ours.item() == pytest.approx(loss.item(), rel=1e-3) and ours.item() != loss.item()
    with pytest.raises(ValueError, match="guard"):
        affinity_loss(given, labels, steps, guard="none")


def test_psa_s_affinity_and_walk():
    inputs, known = case(PSA_WALK)
    steps = psa_steps(5)
    values = affinity(tensor(inputs["features_after_elu"]), steps, border=4)
    close(inner(values, 4).flatten(2), known["pair_affinities"])
    matrix = dense(values, steps)
    close(matrix.sum(1), known["dense_affinity_row_sums"])
    close(matrix[0], known["dense_affinity_first_row"])

    height, width = inputs["picture_hw"]
    scores = torch.zeros(1, 21, height, width, dtype=torch.float64)
    for key, cam in inputs["cams_quarter_grid_repeat_each_pixel_4x4_then_crop"].items():
        cam = tensor(cam).repeat_interleave(4, 0).repeat_interleave(4, 1)
        scores[0, int(key) + 1] = cam[:height, :width]
    scores[:, 0] = (1 - scores.amax(1)) ** inputs["alpha"]
    beyond = inputs["padded_hw"][0] - height, inputs["padded_hw"][1] - width
    pooled = F.avg_pool2d(F.pad(scores, (0, beyond[1], 0, beyond[0])), 8)
    shown = [0, 3, 15]
    close(pooled[0, shown], known["cam_pooled_8x8_channels_0_3_15"])
    walked = random_walk(pooled, values, steps, beta=inputs["beta"], times=2 ** inputs["logt"])
    close(walked[0, shown], known["walked_before_upsampling_channels_0_3_15"])
    full = F.interpolate(walked, scale_factor=8, mode="bilinear", align_corners=False)
    mask = full[0, :, :height, :width].argmax(0)
    assert mask[::4, ::4].tolist() == known["prediction_every_4_pixels"]


# ---- The network --------------------------------------------------------------------------------


def test_published_widths():
    with torch.device("meta"):
        net = irnet.IRNet(ThinResNet((3, 4, 6, 3)).channels)
    # 1x1 convolutions without bias, scale and shift of each normalised channel, one bias
    edge = 32 * (64 + 256 + 512 + 1024 + 2048) + 5 * 64 + 160 + 1
    field = 64 * 64 + 256 * 128 + 256 * (512 + 1024 + 2048) + 2 * (64 + 128 + 3 * 256)
    field += 256 * (768 + 448) + 4 * 256 + 2 * 256
    assert sum(p.numel() for p in net.edge.parameters()) == edge
    assert sum(p.numel() for p in net.displacement.parameters()) == field


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (50, 83)])
def test_the_network_s_maps_are_a_quarter_of_the_picture(size):
    backbone = ThinResNet((1, 1, 1, 1), thin=8, dilated=False).eval()
    net, images = irnet.IRNet(backbone.channels), torch.rand(2, 3, *size)
    quarter = [-(-side // 4) for side in size]
    stages = backbone.stages(images)
    edge, field = net(stages)
    assert list(edge.shape) == [2, 1, *quarter] and list(field.shape) == [2, 2, *quarter]
    pooled = F.max_pool2d(stages[0], 3, 2, 1)
    parts = [
        F.interpolate(squeeze(x), scale_factor=factor, mode="bilinear").relu()
        for squeeze, x, factor in zip(
            net.edge.squeeze, [pooled, *stages[1:]], (1, 1, 2, 4, 4), strict=True
        )
    ]
    parts = torch.cat([x[..., : quarter[0], : quarter[1]] for x in parts], 1)
    torch.testing.assert_close(edge, net.edge.mix(parts))
    edges = irnet.edge_map(net, backbone.stages, images)
    mirrored = irnet.edge_map(net, backbone.stages, images.flip(-1))
    torch.testing.assert_close(edges, mirrored.flip(-1))
    assert irnet.IRNet(backbone.channels, displacement=False)(stages)[1] is None


class Free(torch.nn.Module):
    """Edge logits that are the parameters themselves, and no displacement."""

    def __init__(self):
        super().__init__()
        noise = torch.rand(1, 1, 8, 14, generator=torch.Generator().manual_seed(0))
        self.edge = torch.nn.Parameter(noise)

    def forward(self, stages):
        return self.edge, None


def test_an_edge_is_learned_where_nothing_is_labelled():
    """Left an object, right the ground, two columns between them unsure: there must be the edge."""
    labels = torch.full((1, 8, 14), 255, dtype=torch.uint8)
    labels[..., :6], labels[..., 8:] = 1, 0
    model, batch = Free(), (torch.zeros(1, 3, 32, 56), labels)
    train(
        model,
        irnet.irnet_training_loss(lambda images: [], radius=4),
        lambda start: iter([batch] * 50),
        steps=50,
        optimiser=torch.optim.Adam(model.parameters(), lr=0.3),
        amp=False,
    )
    edge = model.edge.detach().sigmoid()[..., :5, :]  # the last rows start no pair
    assert edge[..., 6:8].amax(-1).min() > 0.9
    assert edge[..., 3:6].max() < 0.1 and edge[..., 8:11].max() < 0.1
    maps = torch.zeros(1, 1, 5, 14)
    maps[..., 4] = 1
    walked = irnet.walk_to_edges(maps, edge, radius=4)
    assert walked[..., 5].min() > 10 * walked[..., 8].max()


def test_a_radius_without_steps_says_so():
    with pytest.raises(ValueError, match="at least 2"):
        irnet.edge_paths(1)
