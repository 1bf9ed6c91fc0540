"""What does not fit together is refused with the nearest right value: at load, or by `check`."""

import json

import pytest
import torch
from conftest import profile_of

from clims_lib.__main__ import main
from clims_lib.artifacts import save_tensors
from clims_lib.backbones import ThinResNet
from clims_lib.cam import CAMNet
from clims_lib.config import load_profile
from clims_lib.stages.checks import check, misfits
from clims_lib.stages.first_weights import first_weights
from clims_lib.stages.networks import new_network, train_cam


@pytest.mark.parametrize("name", ["mini", "tiny", "voc2012", "voc2012_release", "voc2012_sample"])
def test_our_own_profiles_fit(name):
    if name == "voc2012_sample":
        pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra `sample`")
    assert misfits(load_profile(name)) == []


@pytest.mark.parametrize(
    "change, message",
    [
        ("prompts.template=a photo", "'a photo' needs one {} where the class goes, as in 'a photo"),
        ("prompts.template=a {} and {}", "needs one {} where"),
        ("prompts.template=a {word} {}", "needs one {} where"),
        ("prompts.template=a {} in {", "needs one {} where"),
        ("prompts.words=improve", "prompts.words = 'improve' is no choice; did you mean improved?"),
        (
            "losses.class_weights.chiar=2",
            "class_weights names the unknown class 'chiar'; did you mean chair?",
        ),
        (
            'losses.background=["boot: river"]',
            "losses.background names the unknown class 'boot'; did you mean boat?",
        ),
        ('losses.clamped=["otm", "bmt"]', "clamped[1] = 'bmt' is no choice; did you mean btm?"),
        ("clims.head=botleneck", "did you mean bottleneck?"),
        ("deeplab.start=imagnet", "deeplab.start = 'imagnet' is no choice; did you mean imagenet?"),
        ("cam.batch=0", "cam.batch must be 1 at least, not 0"),
        ("compute.accumulate=0", "compute.accumulate must be 1 at least, not 0"),
        ("puzzle.tiles=-1", "puzzle.tiles must be 1 at least, not -1"),
        ("clims.epochs=0", "clims.epochs must be 1 at least, not 0"),
        ("inference.scales=[]", "inference.scales must be above 0, not []"),
        ("deeplab.pyramid=[0.5, 0.0]", "deeplab.pyramid must be above 0"),
        ("inference.thresholds=[0.3, 0.2]", "inference.thresholds must be rising numbers"),
        ("crf.thresholds=[]", "crf.thresholds must be rising numbers, 1 at least, not []"),
        ("augment.resize=[1.0]", "augment.resize is the lowest and the highest"),
        ("cct.resize=[2.0, 1.0]", "cct.resize is the lowest and the highest"),
        ("data.evaluated=[]", "data.evaluated names no split"),
    ],
)
def test_refused_when_the_profile_is_loaded(change, message):
    with pytest.raises(ValueError) as error:
        load_profile("voc2012", [change])
    assert str(error.value).startswith("voc2012.toml: ") and message in str(error.value)


@pytest.mark.parametrize(
    "name, changes, messages",
    [
        ("tiny", ["cam.weights=imagenet"], ["[3, 4, 6, 3] or [3, 4, 23, 3], not for cam.thin = 8"]),
        ("voc2012", ["cam.thin=4", "cct.start=cam", "deeplab.start=cam", "deeplab.layers=[]"],
         ['cam.weights = "imagenet": there are weights for cam.thin = 1']),
        ("voc2012", ["deeplab.layers=[1, 1, 1, 1]"],
         ['deeplab.start = "imagenet": there are weights', 'choose "cam" or "random"']),
        ("voc2012", ["cam.layers=[2, 2, 2, 2]"],
         ["cam.weights = ", "cct.start = ", 'choose "" for random ones, or a file']),
        ("tiny", ["deeplab.layers=[2, 1, 1, 1]"], ["deeplab.layers must be [] or [1, 1, 1, 1]"]),
        ("tiny", ["cam.stride=12"], ["stride must be 4, 8, 16 or 32, not 12"]),
        ("tiny", ["cct.output_stride=3", "cct.stride=32"], ["must be a power of two"]),
        ("tiny", ["puzzle.tiles=3"], ["puzzle.tiles = 3 does not divide crops of 64 pixels"]),
        ("tiny", ["losses.weights.rge=2"], ["no loss term 'rge'; did you mean reg?"]),
        ("voc2012", ["losses.every_class=true"], ["texts are missing for aeroplane, bicycle"]),
        ("tiny", ['losses.background=["boat river", "train: rails"]'],
         ["background texts look like 'train: railroad, rails', not 'boat river'"]),
        ("tiny", ["pseudo.method=climms"], ["no method 'climms'; did you mean clims?"]),
        ("tiny", ["pseudo.method=clims_crf"], ['say "clims" and pseudo.crf = true']),
        ("tiny", ["cct.auxiliary.vat=1"], ["no perturbation is called 'vat'"]),
        ("voc2012", ["clip_checkpoint=ViT-B/23"], ["'ViT-B/23' is no file", "mean ViT-B/32?"]),
        ("tiny", ["cct.auxiliary.cutout=1", "losses.weights.rge=2"],
         ["no loss term 'rge'", "no perturbation is called 'cutout'"]),
    ],
)  # fmt: skip
def test_refused_before_anything_is_made(name, changes, messages, tmp_path):
    profile = load_profile(name, [f"outputs={json.dumps(str(tmp_path))}", *changes])
    with pytest.raises(ValueError, match=f"{name} does not fit together") as error:
        check(profile)
    assert all(message in str(error.value) for message in messages), str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_maps_training_does_not_ask_for_segmenters():
    profile = load_profile("tiny", ["cct.auxiliary.vat=1"])
    assert misfits(profile, segmenters=False) == []


# ---- Files of weights


def weights_in(folder, layers=(1, 1, 1, 1), thin=8):
    """A ResNet's weights in resnet.safetensors, and other files beside it; the folder's name."""
    backbone = ThinResNet(layers, thin)
    state = backbone.state_dict()
    save_tensors(folder / "resnet.safetensors", state)
    save_tensors(folder / "classifier.safetensors", state | {"fc.weight": torch.zeros(3, 256)})
    network = CAMNet(6, (1, 1, 1, 1), thin=8)
    save_tensors(folder / "network.safetensors", network.state_dict())
    (folder / "junk.safetensors").write_bytes(b"no weights")
    return backbone


@pytest.mark.parametrize(
    "named, layers, message",
    [
        ("imagnet", None, "there is no file .*imagnet; did you mean imagenet\\?"),
        ("{}/resnett.safetensors", None, "no file .*; did you mean .*/resnet.safetensors\\?"),
        ("{}/resnet.safetensors", (1, 2, 1, 1),
         "it is a ResNet of cam.layers = \\[1, 2, 1, 1\\] and cam.thin = 8, not of "
         "\\[1, 1, 1, 1\\] and 8; -p 'cam.layers=\\[1, 2, 1, 1\\]'"),
        ("{}/network.safetensors", None, "a whole network, .* keep what begins with backbone."),
        ("{}/classifier.safetensors", None, "fc.weight is no part of the backbone: leave it out"),
        ("{}/junk.safetensors", None, "junk.safetensors is not a safetensors file"),
        ("{}", None, "there is no file"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_say_what_would(named, layers, message, tmp_path):
    weights_in(tmp_path, layers or (1, 1, 1, 1))
    named = named.format(tmp_path)
    profile = load_profile("tiny", [f'cam.weights="{named}"'])
    with pytest.raises(ValueError, match=message):
        check(profile)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        new_network(profile)


def test_another_width_is_named(tmp_path):
    weights_in(tmp_path, thin=4)
    profile = load_profile("tiny", [f'cam.weights="{tmp_path}/resnet.safetensors"'])
    (problem,) = misfits(profile)
    assert "and cam.thin = 4, not of [1, 1, 1, 1] and 8" in problem
    taken = ["cam.thin=4", "cam.layers=[1, 1, 1, 1]"]  # what it says
    assert misfits(load_profile("tiny", [f"cam.weights={profile.cam.weights}", *taken])) == []


def test_weights_that_fit_are_begun_with(tmp_path):
    backbone = weights_in(tmp_path)
    profile = load_profile("tiny", [f'cam.weights="{tmp_path}/resnet.safetensors"'])
    assert misfits(profile) == []
    found = new_network(profile).backbone.state_dict()
    assert all(torch.equal(found[name], value) for name, value in backbone.state_dict().items())


def test_imagenets_weights_go_by_layers(tmp_path):
    (tmp_path / "resnet50-0676ba61.pth").write_bytes(b"fifty")
    (tmp_path / "resnet101-63fe2227.pth").write_bytes(b"a hundred and one")
    places = [f'weights="{tmp_path}"', f'outputs="{tmp_path}/out"']
    changes = ([], ["cam.layers=[3, 4, 23, 3]"], ["cam.layers=[2, 2, 2, 2]"])
    fifty, more, none = (first_weights(load_profile("voc2012", places + c)) for c in changes)
    assert fifty and more and fifty != more and none == ""
    lite = ["cam.backbone=efficientnet_lite0"]  # comes in a package
    assert first_weights(load_profile("voc2012", places + lite)) == ""


def test_texts_are_looked_at_before_the_baseline_is_trained(small_voc):
    profile = profile_of(small_voc, "losses.every_class=true")
    with pytest.raises(ValueError, match="background texts are missing"):
        train_cam(profile, "clims")
    assert not (profile.outputs / "weights").exists()


def test_the_commands_refuse(capsys):
    for words in (["plan"], ["train", "cam"], ["segment", "supervised"]):
        assert main([*words, "--profile", "tiny", "-p", "cam.weights=imagnet"]) == 1
        assert "did you mean imagenet?" in capsys.readouterr().err


def test_an_absent_clip_stops_only_what_needs_it(capsys):
    profile = load_profile("voc2012_smoke", ["clip_checkpoint=absent/clip.pt"])
    assert misfits(profile) == misfits(profile, row="cam") == []
    for row in ("clims", "clims_no_btm", "cct_clims"):
        (said,) = misfits(profile, row=row)
        assert "CLIP's weights are not here" in said and "absent/clip.pt" in said
    words = ["train", "clims", "--profile", profile.name, "-p", "clip_checkpoint=absent/clip.pt"]
    assert main(words) == 1 and "CLIP's weights are not here" in capsys.readouterr().err
