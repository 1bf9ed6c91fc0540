"""Maps on disk: what is in a file, that interrupted runs go on, and that groups hold it all."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import profile_of

from clims_lib.data.splits import open_split, read_sizes, read_split, subset
from clims_lib.metrics import confusion
from clims_lib.seeds import cam_to_mask
from clims_lib.stages import maps
from clims_lib.stages.cams import compute_cams, make_cams, train_maps
from clims_lib.stages.grouped import Group, groups
from clims_lib.stages.maps import enlarge, read_cam, write_cam


def test_numpy_alone_reads_a_file(tmp_path):
    cams, label = torch.rand(4, 6, 8), torch.tensor([0.0, 1, 0, 1])
    write_cam(tmp_path / "a.npz", cams, label, torch.tensor([19, 30]), 4)
    content = np.load(tmp_path / "a.npz", allow_pickle=False)
    assert content["classes"].tolist() == [2, 4] and content["maps"].dtype == np.float16
    assert content["maps"].shape == (2, 5, 8)  # of 19 x 30 pixels, a value for 4 x 4
    np.testing.assert_allclose(content["maps"], cams[[1, 3], :5].numpy(), atol=1e-3)
    classes, read = read_cam(tmp_path / "a.npz", (19, 30), 4)
    assert classes.tolist() == [2, 4] and read.shape == (2, 19, 30)
    larger = F.interpolate(cams[None, [1, 3], :5], (20, 32), mode="bilinear")[0, :, :19, :30]
    torch.testing.assert_close(read, larger, atol=1e-3, rtol=0)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_no_class_no_map(tmp_path):
    write_cam(tmp_path / "a.npz", torch.rand(4, 2, 2), torch.zeros(4), torch.tensor([8, 8]), 4)
    classes, read = read_cam(tmp_path / "a.npz", (8, 8), 4)
    assert not len(classes) and read.shape == (0, 8, 8)
    assert enlarge(torch.rand(3, 2, 2, 2), 4).shape == (3, 2, 8, 8)


def fake(seen):
    """Maps that say which picture they are of, and remember how many they were asked for."""

    def maps_of(some):
        seen.append(len(some))
        mean = some.float().mean((1, 2, 3)) / 255
        side = some.shape[-1] // 4
        return mean[:, None, None, None].expand(-1, 20, side, side).clone()

    return maps_of


def test_a_killed_run_goes_on_with_what_it_lacks(small_voc, monkeypatch):
    profile, seen = profile_of(small_voc, "inference.batch=3", "inference.seen=canvas"), []
    images, write = read_split(profile, "train")[0], maps.write_cam
    monkeypatch.setattr(maps, "network_maps", lambda *_: fake(seen))

    def killed(path, *others):
        if path.stem == "p5":
            raise KeyboardInterrupt
        write(path, *others)

    monkeypatch.setattr(maps, "write_cam", killed)
    with pytest.raises(KeyboardInterrupt):
        make_cams(profile, "cam", "train")
    monkeypatch.setattr(maps, "write_cam", write)
    folder = make_cams(profile, "cam", "train")
    assert seen == [3, 3, 3]  # killed at p5, and on from there with p5, p6, p7
    for i, name in enumerate(open_split(profile, "train").names):
        with np.load(folder / f"{name}.npz", allow_pickle=False) as content:
            expected = images[i].float().mean().item() / 255
            assert content["maps"].max() == pytest.approx(expected, abs=1e-3)
    monkeypatch.setattr(maps, "network_maps", lambda *_: pytest.fail("made again"))
    assert make_cams(profile, "cam", "train") == folder


def test_groups_are_the_split_in_order(small_voc):
    profile = profile_of(small_voc)
    sizes, labels = read_sizes(profile, "train").tolist(), read_split(profile, "train")[1]
    folder = make_cams(profile, "cam", "train")
    parts = list(groups(profile, folder, "train"))
    assert [i for part in parts for i in part.some] == list(range(8))
    images = read_split(profile, "train")[0]
    whole = compute_cams(profile, "cam", images, read_sizes(profile, "train"))
    for part in parts:
        assert all(list(part.images.shape[2:]) == sizes[i] for i in part.some)
        for row, i in enumerate(part.some):
            present = part.classes[part.label[row] > 0] - 1
            assert torch.equal(present, labels[i].nonzero()[:, 0])
            height, width = sizes[i]
            torch.testing.assert_close(
                part.cams[row][part.label[row] > 0],
                whole[i, present, :height, :width],
                atol=2e-2,
                rtol=2e-2,
            )
            assert not part.cams[row][part.label[row] == 0].any()
    assert [i for part in groups(profile, folder, "train", [1, 3, 4]) for i in part.some] == [
        1,
        3,
        4,
    ]
    with pytest.raises(FileNotFoundError):
        next(iter(groups(profile, folder.parent, "train")))


def test_masks_get_the_labels_of_their_classes():
    part = Group(
        [0],
        torch.zeros(1, 3, 2, 2),
        torch.tensor([3, 7]),
        torch.tensor([[[[0.9, 0.1], [0.0, 0.4]], [[0.0, 0.8], [0.0, 0.3]]]]),
        torch.ones(1, 2),
    )
    assert part.labels_of(cam_to_mask(part.cams, 0.35)).tolist() == [[[3, 7], [0, 3]]]
    assert (
        confusion(
            torch.tensor([[3, 7], [0, 3]]), part.labels_of(cam_to_mask(part.cams, 0.35))[0], 8
        )
        .diagonal()
        .sum()
        == 4
    )


@pytest.mark.parametrize("method", ["cam", "cam_walk"])
def test_only_some_pictures_or_all(small_voc, method):
    profile = profile_of(small_voc, "walk.steps=2", "walk.pictures=4", "walk.batch=2")
    names = open_split(profile, "train").names
    some, everything = make_cams(profile, method, "train", 3), make_cams(profile, method, "train")
    chosen = {names[i] for i in subset(profile, "train", 3)}
    assert {path.stem for path in some.glob("*.npz")} == chosen
    assert len(list(some.glob("*.npz"))) == 3 and len(list(everything.glob("*.npz"))) == 8
    assert make_cams(profile, method, "train", 99) == everything
    assert train_maps(profile, method).name.startswith(f"{method}-")
    for path in some.glob("*.npz"):
        a, b = (np.load(folder / path.name)["maps"] for folder in (some, everything))
        np.testing.assert_allclose(a, b, atol=2e-2, rtol=2e-2)
