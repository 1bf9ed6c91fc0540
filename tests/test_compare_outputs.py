"""Two outputs folders: what is equal, what differs and by how much, what is missing."""

import json
import re
import shutil

import compare_outputs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clims_lib.data.voc import read_mask, write_mask

CLIP, CAM = "weights/clip-0123456789", "weights/cam-0123456789"
MASK, ROWS = "pseudo_masks/cam_val-0123456789/val_0.png", "measured/cam-0123456789/rows.json"


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture
def two(tmp_path):
    """OLD and NEW with the same content; NEW's keys, seconds, commit and figures are others."""
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (CLIP, CAM, "cams/cam_val-0123456789", "splits/val-0123456789"):
        (old / folder).mkdir(parents=True)
    torch.manual_seed(0)
    half = torch.tensor([1.0, float("nan")]).half()
    torch.save({"model": {"w": torch.randn(3), "half": half}, "layers": 2}, old / CLIP / "clip.pt")
    save_file({"w": torch.randn(2, 3), "n": torch.tensor(7)}, old / CAM / "weights.safetensors")
    write_json(old / CAM / "history.json", [{"loss": 0.1 + 0.2}, {"loss": None}])
    write_json(old / CAM / "manifest.json", {"seconds": 1.5})
    maps = {"classes": np.array([3], np.uint8), "maps": np.ones((1, 4, 4), np.float16)}
    np.savez(old / "cams/cam_val-0123456789/val_0.npz", **maps)
    np.save(old / "splits/val-0123456789/sizes.npy", np.arange(6).reshape(3, 2))
    write_mask(old / MASK, np.eye(5, dtype=np.uint8))
    row = {"method": "cam", "miou": 0.5, "iou": {"cow": None}}
    write_json(old / ROWS, [row])
    timed = {"rows": [row | {"seconds": 3.0}], "seconds": 9.0, "commit": "a", "environment": {}}
    write_json(old / "results.json", timed)
    write_json(old / "metrics/03_cam_training.json", {"rows": [row], "seconds": 1.0})
    (old / "figures").mkdir()
    (old / "figures/a.png").write_bytes(b"old")

    shutil.copytree(old, new)
    for folder in [p for p in new.glob("*/*-0123456789")]:
        folder.rename(folder.with_name(folder.name.replace("0123456789", "fedcba9876")))
    write_json(new / "weights/cam-fedcba9876/manifest.json", {"seconds": 2.5})
    write_json(new / "results.json", timed | {"rows": [row], "seconds": 1.0, "commit": "b"})
    (new / "figures/a.png").write_bytes(b"new")
    (new / "weights/late-fedcba9876.partial").mkdir()
    return old, new


def there(path):
    return path.replace("0123456789", "fedcba9876")


def changed(table):
    return {name: verdict for name, verdict in table.items() if verdict != "equal"}


def test_equal_folders(two, capsys):
    assert compare_outputs.main([str(folder) for folder in two]) == 0
    said = capsys.readouterr().out
    assert re.search("weights/clip +equal\n", said) and "8 compared: 8 equal" in said
    assert "figures" not in said and "late" not in said


def test_one_tensor_of_one_ulp(two, capsys):
    path = two[1] / there(CAM) / "weights.safetensors"
    tensors = load_file(path)
    before = tensors["w"][1, 2].item()
    tensors["w"][1, 2] = torch.nextafter(tensors["w"][1, 2], torch.tensor(torch.inf))
    ulp = abs(tensors["w"][1, 2].item() - before)
    save_file(tensors, path)
    assert compare_outputs.main([str(folder) for folder in two]) == 1
    said = capsys.readouterr().out
    assert re.search(f"weights/cam +differs: by {ulp:.3g} in weights.safetensors, w\n", said)
    assert said.endswith("8 compared: 7 equal, 1 differs, 0 only in OLD, 0 only in NEW\n")


def test_the_state_of_clip(two):
    path = two[1] / there(CLIP) / "clip.pt"
    state = torch.load(path, weights_only=True)
    state["model"]["w"] = state["model"]["w"].double()
    torch.save(state, path)
    found = changed(compare_outputs.compare(*two))
    assert found == {"weights/clip": "differs: another type, shape or text in clip.pt, model.w"}


def test_missing_folders(two):
    shutil.rmtree(two[1] / there(CLIP))
    shutil.rmtree(two[0] / "splits")
    (two[1] / there(MASK)).unlink()
    assert changed(compare_outputs.compare(*two)) == {
        "weights/clip": "only in OLD",
        "splits/val": "only in NEW",
        "pseudo_masks/cam_val": "differs: val_0.png is only in OLD, 1 such files",
    }


def test_a_mask_pixel(two):
    mask = read_mask(two[1] / there(MASK)).copy()
    mask[0, 4] = 255
    write_mask(two[1] / there(MASK), mask)
    assert changed(compare_outputs.compare(*two)) == {
        "pseudo_masks/cam_val": "differs: by 255 in val_0.png"
    }


def test_rows_arrays_and_history(two):
    row = {"method": "cam", "miou": 0.5, "iou": {"cow": 0.25}}
    write_json(two[1] / there(ROWS), [row])
    write_json(
        two[1] / "results.json", {"rows": [row, row], "environment": {}, "commit": "", "seconds": 0}
    )
    write_json(two[1] / there(CAM) / "history.json", [{"loss": 0.3}, {"loss": None}])
    np.save(two[1] / "splits/val-fedcba9876/sizes.npy", np.arange(6).reshape(2, 3))
    found = changed(compare_outputs.compare(*two))
    assert found.pop("results.json").startswith("differs: results.json: rows.1.")
    assert found == {
        "measured/cam": "differs: another type, shape or text in rows.json, 0.iou.cow",
        "weights/cam": "differs: by 5.55e-17 in history.json, 0.loss",
        "splits/val": "differs: another type, shape or text in sizes.npy",
    }


def test_several_of_one_name_are_matched_by_content(two):
    old, new = two
    shutil.copytree(new / there(CLIP), new / "weights/clip-aaaaaaaaaa")
    (new / there(CLIP) / "clip.pt").unlink()  # of other settings
    found = compare_outputs.compare(old, new)
    assert found["weights/clip"] == "equal (1 in OLD, 2 in NEW)"
    shutil.copytree(old / CLIP, old / "weights/clip-bbbbbbbbbb")
    found = compare_outputs.compare(old, new)
    assert found["weights/clip"] == "equal (2 in OLD, 2 in NEW)"
    torch.save({"model": {}}, old / "weights/clip-bbbbbbbbbb/clip.pt")
    assert compare_outputs.compare(old, new)["weights/clip"].startswith("differs: ")


def test_folders_that_are_none(two, tmp_path, capsys):
    (tmp_path / "empty/figures").mkdir(parents=True)
    assert compare_outputs.main([str(two[0]), str(tmp_path / "gone")]) == 1
    assert "gone is not a folder: give outputs folders" in capsys.readouterr().err
    assert compare_outputs.main([str(tmp_path / "empty"), str(two[0])]) == 1
    assert "empty holds no artifacts" in capsys.readouterr().err


def test_signs_and_nans_are_bits():
    zero, nan = torch.tensor([0.0]), torch.tensor([float("nan")])
    assert compare_outputs.distance(zero, -zero) == 0
    assert compare_outputs.distance(nan, nan.clone()) is None
    assert compare_outputs.distance(1, 1.0) == float("inf") == compare_outputs.distance(nan, zero)
