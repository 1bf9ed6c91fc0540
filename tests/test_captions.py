"""A cut view shows what its caption names, and names nothing that was cut away."""

from collections import namedtuple
from dataclasses import asdict

import pytest
import torch

from clims_lib.config import load_profile
from clims_lib.miniworld.captions import CUTS, EMPTY, caption, cut_views, half_planes, soft_blobs

Thing = namedtuple("Thing", "noun is_object")
SCENE = (Thing("grass", False), Thing("cow", True), Thing("water", False))


@pytest.fixture
def scenes():
    """200 copies of one scene: grass above, water below, a cow on the left half of the grass."""
    maps = torch.zeros(200, 64, 64, dtype=torch.uint8)
    maps[:, 32:] = 2
    maps[:, 8:32, :32] = 1
    return torch.ones(200, 3, 64, 64), maps, [SCENE] * 200


def views(scenes, seed=0, **cuts):
    return cut_views(*scenes, torch.Generator().manual_seed(seed), cuts)


def test_whole_pictures_stay_as_they_are(scenes):
    images, captions = views(scenes, whole=1.0)
    assert torch.equal(images, scenes[0])
    assert all("cow" in text for text in captions)


def test_a_hole_hides_the_object_and_its_name(scenes):
    images, captions = views(scenes, hole=1.0)
    inside = images[:, :, 14:26, 6:26]  # away from the edges, which may be rough
    assert bool((inside.std((2, 3)) < 1e-5).all())  # one fill colour
    assert not any("cow" in text for text in captions)
    assert any("grass" in text for text in captions) and any("water" in text for text in captions)


def test_a_thing_alone_is_named_alone(scenes):
    images, captions = views(scenes, alone=1.0)
    for image, text in zip(images, captions, strict=True):
        named = [noun for noun in ("cow", "grass", "water") if noun in text]
        assert len(named) == 1
        rows, columns = {"cow": (20, 16), "grass": (4, 50), "water": (50, 32)}[named[0]]
        assert image[0, rows, columns] == 1  # that thing is in the picture


def test_blank_pictures_are_called_empty(scenes):
    images, captions = views(scenes, blank=1.0)
    assert set(captions) <= set(EMPTY) | {f"a photo of {e}" for e in EMPTY}
    assert bool((images.std((2, 3)) < 1e-5).all())


def test_the_same_generator_gives_the_same_views(scenes):
    cuts = dict.fromkeys(CUTS, 1.0)
    one, two = (views(scenes, seed=3, **cuts) for _ in range(2))
    assert torch.equal(one[0], two[0]) and one[1] == two[1]
    assert views(scenes, seed=4, **cuts)[1] != one[1]


def test_blurred_grounds_have_lost_their_texture_and_their_names(scenes):
    """A chessboard on everything: the cow keeps hers, behind it there is none or one colour."""
    chess = 2.0 * ((torch.arange(64)[:, None] + torch.arange(64)) % 2) - 1
    pictures = chess + torch.linspace(0, 1, 64)[:, None].expand(200, 3, 64, 64)
    images, captions = cut_views(
        pictures, *scenes[1:], torch.Generator().manual_seed(0), {"blurred": 1.0}
    )
    assert torch.allclose(images[:, :, 14:26, 6:26], pictures[:, :, 14:26, 6:26])
    behind = images[:, :, 40:, 8:56]
    assert float(behind.diff(dim=3).abs().max()) < 1e-5  # of the board nothing is left
    flat = behind.std((1, 2, 3)) < 1e-5
    assert 70 < int(flat.sum()) < 130  # the others keep what is broad: darker above, brighter below
    assert torch.allclose(behind[flat], pictures.mean(), atol=1e-4)
    below, above = behind[~flat, :, -8:].mean(), behind[~flat, :, :8].mean()
    assert float(below - above) == pytest.approx(16 / 63, abs=0.05)
    assert all("cow" in text and "grass" not in text for text in captions)


def test_a_cut_that_is_never_taken_changes_no_view(scenes):
    """What a profile without it has drawn stays drawn, bit for bit."""
    known = asdict(load_profile("mini").clip.cutouts)
    assert known["blurred"] == 0
    before = {name: share for name, share in known.items() if name != "blurred"}
    images, captions = views(scenes, seed=5, **before)
    again = views(scenes, seed=5, **known)
    assert torch.equal(images, again[0]) and captions == again[1]


def test_every_cut_has_its_share_in_the_profile():
    assert list(asdict(load_profile("mini").clip.cutouts)) == list(CUTS)


def test_shares_are_kept(scenes):
    _, captions = views(scenes, whole=0.5, blank=0.5)
    empty = sum(text in EMPTY for text in captions)
    assert 70 < empty < 130  # of 200


def test_unknown_cuts_are_refused(scenes):
    with pytest.raises(ValueError, match="unknown cuts"):
        views(scenes, halves=1.0)


def test_windows_lie_in_range():
    g = torch.Generator().manual_seed(0)
    blobs, planes = soft_blobs(50, 32, g), half_planes(50, 32, g)
    assert blobs.min() >= 0 and blobs.max() <= 1 and blobs.shape == (50, 32, 32)
    assert set(planes.unique().tolist()) == {0.0, 1.0}
    assert all(0.05 < share < 0.95 for share in planes.mean((1, 2)).tolist())


def test_objects_are_named_first():
    g = torch.Generator().manual_seed(0)
    for _ in range(20):
        text = caption(SCENE, g)
        assert "cow" in text and (" and " not in text or text.index("cow") < text.index(" and "))
