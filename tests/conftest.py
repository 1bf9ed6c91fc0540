"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")  # before anything imports pyplot

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def voc2012() -> Path:
    """A folder in the layout of VOC2012 with real pictures, or a skip that says where it looked."""
    places = [os.environ.get("CLIMS_VOC2012"), ROOT / "data/voc2012", ROOT / "VOCdevkit/VOC2012",
              ROOT.parent / "shared/voc2012"]
    places = [Path(place) for place in places if place]
    for place in places:
        if (place / "JPEGImages").is_dir():
            return place
    pytest.skip("no VOC2012 pictures: set CLIMS_VOC2012 or put them into data/voc2012")
