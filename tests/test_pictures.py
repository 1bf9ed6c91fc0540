"""Random crops against slicing by hand, and arrays on disk against what was written."""

import numpy as np
import pytest
import torch

from clims_lib.batches import FILL, random_crops
from clims_lib.data.pictures import read_array, sizes_path, write_array


def canvas(height, width, side=8):
    """A picture whose value is its own place, in the corner of a canvas; and its mask."""
    image = (torch.tensor(FILL) / 255).view(3, 1, 1).expand(3, side, side).clone()
    mask = torch.full((side, side), 255, dtype=torch.uint8)
    place = torch.arange(height * width).view(height, width)
    image[:, :height, :width] = place / 100
    mask[:height, :width] = place
    return image[None], mask[None], torch.tensor([[height, width]])


def test_at_scale_1_a_crop_is_a_slice():
    images, masks, sizes = canvas(8, 8)
    for row, column in ((0, 0), (2, 3), (4, 4)):
        window = torch.tensor([[0.5, row / 4, column / 4]])  # 4 pixels of room in either direction
        x, m = random_crops(images, masks, sizes, window, crop=4, resize=(1.0, 1.0))
        here = (..., slice(row, row + 4), slice(column, column + 4))
        torch.testing.assert_close(x, images[here], atol=1e-5, rtol=0)
        assert torch.equal(m, masks[here])


def test_a_picture_smaller_than_its_window_is_whole_somewhere_in_it():
    images, masks, sizes = canvas(2, 3)
    for row, column in ((0, 0), (1, 2), (4, 3)):
        window = torch.tensor([[0.0, 1 - row / 4, 1 - column / 3]])
        x, m = random_crops(images, masks, sizes, window, crop=6, resize=(1.0, 1.0))
        inside = m[0] != 255
        assert inside.nonzero().amin(0).tolist() == [row, column]
        assert m[0][inside].tolist() == [0, 1, 2, 3, 4, 5]
        fill = (torch.tensor(FILL) / 255).view(3, 1).expand(3, 30)
        torch.testing.assert_close(x[0][:, ~inside], fill, atol=1e-5, rtol=0)


def test_a_scale_of_2_shows_every_pixel_four_times():
    images, masks, sizes = canvas(8, 8)
    window = torch.tensor([[1.0, 0.0, 0.0]])
    _, m = random_crops(images, masks, sizes, window, crop=8, resize=(0.5, 2.0))
    assert torch.equal(m, masks[:, :4, :4].repeat_interleave(2, 1).repeat_interleave(2, 2))
    _, m = random_crops(images, masks, sizes, window, crop=4, resize=(0.5, 0.5))
    assert m.shape == (1, 4, 4) and (m != 255).all()  # 8 pixels shrunk to 4


def test_whole_pictures_are_handed_back_as_they_are():
    images, masks, sizes = canvas(8, 8)
    x, m = random_crops(images, masks, sizes, torch.rand(1, 3), crop=8, resize=(1.0, 1.0))
    assert x is images and m is masks


def test_arrays_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, (3, h, w), dtype=np.uint8) for h, w in ((4, 6), (6, 2))]
    write_array(tmp_path / "images.npy", parts, 2, 6, FILL)
    found = read_array(tmp_path / "images.npy")
    assert found.shape == (2, 3, 6, 6)
    assert np.array_equal(found[0, :, :4], parts[0])
    assert np.array_equal(found[1, :, :, :2], parts[1])
    assert found[0, :, 5, 5].tolist() == list(FILL)
    assert read_array(sizes_path(tmp_path / "images.npy")).tolist() == [[4, 6], [6, 2]]
    found[0] = 0  # a reader's own copy: the file stays
    assert np.array_equal(read_array(tmp_path / "images.npy")[0, :, :4], parts[0])
    with pytest.raises(ValueError, match="data.size >= 6"):
        write_array(tmp_path / "small.npy", parts, 2, 5, FILL)
