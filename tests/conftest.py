"""Fixtures shared by the tests."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("MPLBACKEND", "Agg")  # before anything imports pyplot

from clims_lib.config import load_profile  # noqa: E402
from clims_lib.data.voc import write_mask  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def voc2012() -> Path:
    """A folder in the layout of VOC2012 with real pictures, or a skip that says where it looked."""
    places = [
        os.environ.get("CLIMS_VOC2012"),
        ROOT / "data/voc2012",
        ROOT / "VOCdevkit/VOC2012",
        ROOT.parent / "shared/voc2012",
    ]
    places = [Path(place) for place in places if place]
    for place in places:
        if (place / "JPEGImages").is_dir():
            return place
    pytest.skip("no VOC2012 pictures: set CLIMS_VOC2012 or put them into data/voc2012")


@pytest.fixture(scope="module")  # its event loop must not run beside those of other tests
def browser():
    """A headless Chromium, or a skip that says what is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `test`")
    names = ("chromium", "chromium-browser", "google-chrome")  # as in ci/_browser.sh
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    quiet = [
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=quiet)
        yield chromium
        chromium.close()


@pytest.fixture
def small_voc(tmp_path):
    return write_small_voc(tmp_path)


def write_small_voc(folder):
    """Ten pictures of two sizes with one object each, real VOC's layout without a classes.txt."""
    root, rng = folder / "VOC2012", np.random.default_rng(0)
    (root / "JPEGImages").mkdir(parents=True)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for i in range(10):
        height, width = ((24, 32), (32, 20))[i % 2]
        mask = np.zeros((height, width), np.uint8)
        mask[4:12, 4:12] = i % 20 + 1
        mask[0] = 255
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"p{i}.jpg")
        write_mask(root / "SegmentationClass" / f"p{i}.png", mask)
    (lists / "trainaug.txt").write_text("\n".join(f"p{i}" for i in range(8)))
    (lists / "val.txt").write_text("p8\np9\n")
    return root


def profile_of(root, *more):
    return load_profile(
        "voc2012_smoke",
        [
            f'data_root="{root}"',
            f'outputs="{root.parent}/out"',
            f'weights="{root.parent}/weights"',
            "data.size=32",
            "data.train=8",
            "data.val=2",
            "data.labelled=3",
            "augment.crop=32",
            *more,
        ],
    )


def small_clip(seed=0, resolution=32):
    """A CLIP of the real class, small enough to train in a test."""
    from clims_lib.clip_model import new_clip  # here: most tests do without CLIP

    return new_clip(
        resolution=resolution,
        layers=(1, 1, 1, 1),
        width=8,
        embed_dim=32,
        text_width=64,
        text_layers=1,
        context_length=20,
        seed=seed,
    )


@contextmanager
def interrupted_training(monkeypatch, module, step):
    """Within it `module.train` saves after every step, and is interrupted as soon as `step` is."""
    train = module.train

    def breaks(*given, save, **how):
        def stop(state):
            save(state)
            if state["step"] == step:
                raise KeyboardInterrupt

        train(*given, save=stop, save_every=0.0, **how)

    with monkeypatch.context() as patch:
        patch.setattr(module, "train", breaks)
        with pytest.raises(KeyboardInterrupt):
            yield


def micro_batches_of_all(batch, accumulate, size, loss, model):
    """[[(micro-batch, weight)] of each of so many processes], which here work one after the other:
    what each counts is known to all in a second round."""
    from clims_lib.shares import micro_batches

    shares = [tuple(None if p is None else p[rank::size] for p in batch) for rank in range(size)]
    counted = []
    first = SimpleNamespace(size=size, sum=lambda numbers: counted.append(numbers) or numbers)
    for mine in shares:
        micro_batches(mine, accumulate, first, loss, model)
    second = SimpleNamespace(size=size, sum=lambda numbers: sum(counted))
    return [micro_batches(mine, accumulate, second, loss, model) for mine in shares]
