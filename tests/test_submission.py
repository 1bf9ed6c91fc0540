"""The archive for the evaluation server holds what the server wants, or is not written."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from clims_lib.__main__ import main
from clims_lib.data.submission import write_submission
from clims_lib.data.voc import write_mask

SIZES = {"2008_000001": (50, 37), "2008_000002": (37, 50), "2011_000003": (1, 1)}


@pytest.fixture
def voc(tmp_path):
    """Pictures of three sizes, a test list and one segmentation each."""
    root = tmp_path / "VOC2012"
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/test.txt").write_text("\n".join(SIZES) + "\n")
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        Image.new("RGB", (width, height)).save(root / "JPEGImages" / f"{name}.jpg")
        write_mask(tmp_path / "masks" / f"{name}.png", rng.integers(0, 21, (height, width)))
    return root


def test_the_server_reads_back_every_label(voc, tmp_path):
    out = write_submission(tmp_path / "masks", voc, tmp_path / "out" / "a.tgz")
    with tarfile.open(out) as archive:
        inside = "results/VOC2012/Segmentation/comp6_test_cls"
        assert archive.getnames() == [f"{inside}/{name}.png" for name in SIZES]
        for name, size in SIZES.items():
            png = Image.open(archive.extractfile(f"{inside}/{name}.png"))
            assert (png.mode, png.size) == ("P", size)
            assert png.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # as VOC's own
            np.testing.assert_array_equal(
                np.array(png), np.array(Image.open(tmp_path / "masks" / f"{name}.png"))
            )


def test_what_the_server_would_reject_is_refused(voc, tmp_path, capsys):
    masks, out = tmp_path / "masks", tmp_path / "a.tgz"
    path = masks / "2008_000002.png"
    good = path.read_bytes()
    for spoil, message in (
        (lambda: path.unlink(), "2008_000002.png is missing .of 3 segmentations 1 are"),
        (lambda: write_mask(path, np.zeros((37, 50), int)), "50 x 37 pixels, its picture 37 x 50"),
        (lambda: write_mask(path, np.full((50, 37), 255)), r"holds \[255\]"),
        (lambda: path.write_bytes(good[:-30]), "cannot read the mask .*2008_000002"),
    ):
        path.write_bytes(good)
        spoil()
        with pytest.raises(ValueError, match=message):
            write_submission(masks, voc, out)
        assert not list(tmp_path.glob("*a.tgz*"))
    path.write_bytes(good)
    with pytest.raises(ValueError, match="comp5 or comp6"):
        write_submission(masks, voc, out, competition="comp3")
    command = ["submission", str(masks), "--root", str(voc), "--out", str(out)]
    assert main([*command, "--split", "val"]) == 1
    assert "lists that exist: test" in capsys.readouterr().err
    assert main(command) == 0
    assert out.is_file()
