"""The CAM network against torchvision's own ResNet, and the maps' averaging by hand."""

import copy

import pytest
import torch
import torchvision

from clims_lib.cam import CAMNet, fold_batch_norms, multi_scale_cam


def test_resnet50_takes_torchvisions_weights_key_for_key():
    ours = CAMNet(20, (3, 4, 6, 3), stride=32).eval()
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50().eval()
    state = theirs.state_dict()
    expected = {k for k in state if not k.startswith("fc.")}
    assert set(ours.backbone.state_dict()) == expected
    ours.backbone.load_state_dict({k: state[k] for k in expected})
    image = torch.rand(1, 3, 64, 64)
    normalised = (image - ours.mean) / ours.std
    with torch.no_grad():
        pooled = ours.features(image).mean((2, 3))
        torch.testing.assert_close(theirs.fc(pooled), theirs(normalised), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_stride_and_width(stride):
    net = CAMNet(6, (1, 1, 1, 1), thin=8, stride=stride).eval()
    assert net(torch.rand(2, 3, 64, 96)).shape == (2, 6, 64 // stride, 96 // stride)
    assert net.channels == 256


def trained_a_little(net, seed=0):
    """Batch norms with statistics and weights of their own, as after a training."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.running_mean, module.bias.data):
                values.normal_(0, 0.3)
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize("backbone, stride", [("resnet", 8), ("efficientnet_lite0", 16)])
def test_folded_batch_norms_leave_the_maps_as_they_are(backbone, stride):
    if backbone != "resnet":
        pytest.importorskip("efficientnet_lite_pytorch")
    net = trained_a_little(CAMNet(6, (2, 1, 1, 1), thin=8, stride=stride, backbone=backbone))
    image, folded = torch.rand(2, 3, 64, 96), fold_batch_norms(copy.deepcopy(net))
    with torch.no_grad():
        for before, after in zip(net.stages(image), folded.stages(image), strict=True):
            torch.testing.assert_close(
                after / before.std(), before / before.std(), atol=1e-4, rtol=0
            )
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())


def test_batch_norms_that_still_learn_are_not_folded():
    with pytest.raises(ValueError, match="eval"):
        fold_batch_norms(CAMNet(6, (1, 1, 1, 1), thin=8))


def test_maps_are_averaged_over_scales_and_mirrors():
    model = lambda x: x[:, :1] - 0.5  # noqa: E731  a network whose map is its input
    image = torch.rand(1, 3, 8, 8)
    maps = multi_scale_cam(model, image, scales=[1.0], flip=True, activation="relu")
    torch.testing.assert_close(maps, (image[:, :1] - 0.5).relu())
    flat = torch.full((1, 3, 8, 8), 0.75)
    maps = multi_scale_cam(model, flat, scales=[0.5, 2.0], flip=False, activation="sigmoid")
    torch.testing.assert_close(maps, torch.full((1, 1, 8, 8), 0.25).sigmoid())


def test_bad_input_says_so():
    with pytest.raises(ValueError, match="stride"):
        CAMNet(6, (1, 1, 1, 1), stride=5)
    with pytest.raises(ValueError, match="activation"):
        multi_scale_cam(lambda x: x, torch.rand(1, 3, 4, 4), scales=[1], flip=0, activation="tanh")
