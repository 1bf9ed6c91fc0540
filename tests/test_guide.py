"""The instructor's guide: its worked examples run as they are printed."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from clims_lib import typed_toml
from clims_lib.config import load_profile
from clims_lib.data.voc import VOCFolder, read_mask

CAMELS = """
import json
from clims_lib.stages.clip import finetune_clip
from clims_lib.config import load_profile
from clims_lib.stages.measures import measure, oracle_check
from clims_lib.data.splits import make_data
profile = load_profile("tiny", ["device=cpu"])
print(json.dumps({"root": str(make_data(profile)), "rows": measure(profile, "clims"),
                  "oracle": oracle_check(profile, finetune_clip(profile))}))
"""

LATER = """
import json
from clims_lib.config import load_profile
from clims_lib.stages.measures import measure
from clims_lib.stages.methods import METHODS
from clims_lib.stages.networks import train_cam
profile = load_profile("tiny", ["device=cpu", "losses.weights.waver=20"])
rows = measure(profile, "cam_lse") + measure(profile, "cam_lse_crf")
clims = train_cam(profile, "clims")
print(json.dumps({"rows": rows, "methods": list(METHODS), "cam": str(train_cam(profile, "cam")),
                  "lse": str(train_cam(profile, "cam_lse")), "clims": str(clims),
                  "parts": json.loads((clims / "history.json").read_text())}))
"""


@pytest.fixture(scope="module")
def guide(root) -> str:
    return (root / "notebooks" / "instructors_guide.md").read_text()


def blocks(guide: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)


def copy_library(root, folder) -> None:
    """What a patch of the guide applies to; it writes its data and outputs into `folder`."""
    shutil.copytree(
        root / "clims_lib", folder / "clims_lib", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(root / "pyproject.toml", folder)


def apply(folder, patch: str) -> None:
    (folder / "a.patch").write_text(patch)
    subprocess.run(["git", "apply", "a.patch"], cwd=folder, check=True)


def run(folder, *words) -> str:
    """Run Python with the copy of the library; returns what it printed."""
    call = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )
    assert call.returncode == 0, call.stderr
    return call.stdout


def test_links_lead_somewhere_and_lectures_last_90_minutes(guide, root):
    links = re.findall(r"\]\(([^)]+)\)", guide)
    assert links and all((root / "notebooks" / link).is_file() for link in links)
    lectures = re.split(r"^### \d\. ", guide, flags=re.MULTILINE)[1:]
    minutes = [sum(map(int, re.findall(r"^\| (\d+) \|", text, re.MULTILINE))) for text in lectures]
    assert minutes == [90] * 6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="the example is applied by git, not here")
def test_the_new_class_is_drawn_learned_and_measured(guide, root, tmp_path):
    patch = blocks(guide, "diff")[0]
    assert len(re.findall(r"^\+(?!\+\+)", patch, re.MULTILINE)) < 30
    copy_library(root, tmp_path)
    apply(tmp_path, patch)
    found = json.loads(run(tmp_path, "-c", CAMELS).splitlines()[-1])
    data = VOCFolder(found["root"], "train")
    assert found["root"].startswith(str(tmp_path)) and data.classes[6] == "camel"
    camels = [i for i in range(len(data)) if data.label(i)[6]]
    assert 0 < len(camels) < len(data)
    assert all((data[i].mask == 7).any() == (i in camels) for i in range(len(data)))
    assert all((data.ground(i) == 7).any() for i in camels)  # the seventh ground is sand
    assert "camel" in found["rows"][0]["iou"] and "sand->camel" in found["rows"][0]["leak"]
    assert "camel" in {row["class"] for row in found["oracle"]}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="the example is applied by git, not here")
def test_the_new_method_and_term_are_trained_and_measured(guide, root, tmp_path):
    method, term = blocks(guide, "diff")[1:]
    copy_library(root, tmp_path)
    train = "-m", "clims_lib", "train"
    cpu = "--profile", "tiny", "-p", "device=cpu"
    baseline = run(tmp_path, *train, "cam", *cpu).split()[-1]
    apply(tmp_path, method)
    apply(tmp_path, term)
    trained = run(tmp_path, *train, "cam_lse", *cpu).split()[-1]
    found = json.loads(run(tmp_path, "-c", LATER).splitlines()[-1])
    assert found["lse"] == trained and trained.startswith(str(tmp_path))
    assert found["cam"] == baseline  # neither made it anew
    assert [row["method"] for row in found["rows"][::2]] == ["cam_lse", "cam_lse_crf"]
    assert {"cam_lse", "clims_no_waver"} < set(found["methods"])
    weights = load_profile("tiny").losses.weights | {"waver": 20}
    for parts in found["parts"]:
        assert parts["waver"] > 0
        total = sum(weight * parts[name] for name, weight in weights.items())
        assert parts["loss"] == pytest.approx(total, rel=1e-3)


def take_photographs(folder) -> None:
    """Seven of cups and four of lamps, one of both; five have masks: left half 1, the rest 2."""
    rng = np.random.default_rng(0)
    for k, names in (("cup", "abcdefg"), ("lamp", "ghij"), ("masks", "acegi")):
        (folder / k).mkdir(parents=True)
        for name in names:
            if k == "masks":
                mask = np.repeat([[1, 2]], [20, 28], axis=1).repeat(40, axis=0).astype(np.uint8)
                Image.fromarray(mask).save(folder / k / f"{name}.png")
            else:
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / k / f"{name}.jpg")


def test_own_photographs_become_a_data_set(guide, tmp_path, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `sample` is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(typed_toml, "ROOT", tmp_path)
    take_photographs(tmp_path / "data/mine/photos")
    convert, read, stage = blocks(guide, "python")[-3:]
    (mine,) = blocks(guide, "toml")
    (tmp_path / "data/mine/mine.toml").write_text(mine)
    names: dict = {}
    exec(convert, names)
    exec(read, names)
    assert capsys.readouterr().out == "{'train': 7, 'train_labelled': 2, 'val': 3}\n"
    profile = names["profile"]
    assert profile.inference.chosen_on == profile.crf.chosen_on == 2  # train_labelled
    train = VOCFolder(profile.data_root, "train")
    assert train.names == ("c", "g", "b", "d", "f", "h", "j") and train.classes == ("cup", "lamp")
    assert [train.label(i).tolist() for i in (0, 1, 6)] == [[1, 0], [1, 1], [0, 1]]
    mask = read_mask(profile.data_root / "SegmentationClass/c.png")
    assert (mask == np.repeat([1, 2], [20, 28])).all() and mask.shape == (40, 48)
    assert (train[2].mask == 255).all() and train[2].mask.shape == train[2].image.shape[1:]

    few = {"epochs": 1, "batch": 4}
    names["profile"] = replace(
        profile,
        device="cpu",
        data=replace(profile.data, size=64),
        cam=replace(profile.cam, **few),
        augment=replace(profile.augment, crop=64),
        inference=replace(profile.inference, thresholds=(0.3, 0.5)),
    )
    exec(stage, names)
    out = capsys.readouterr().out
    assert "'method': 'cam'" in out and "'cup'" in out and "'lamp'" in out
