"""The lists every VOC2012 paper trains on, derived: trainaug = VOC train + SBD minus VOC val.

SBD (Hariharan et al., ICCV 2011) has masks for 11,355 VOC pictures, in MATLAB files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from clims_lib.artifacts import atomic_path
from clims_lib.data.voc import list_names, write_mask

TRAINAUG, LABELLED = 10_582, 1_464  # what every paper reports


def add_sbd(root: Path, sbd: Path, *, expected: int = TRAINAUG, labelled: int = LABELLED) -> None:
    """Give VOC at `root` SBD's masks and lists: trainaug, and CCT's train_labelled / train_weak.

    Masks go to SegmentationClassAug, for the pictures that VOC itself has no mask of. sbd: its
    `dataset` folder (cls/*.mat, train.txt, val.txt). The lists are written last, when all masks
    are there. Raises ValueError when a list is missing or the sizes are not the published ones.
    """
    root, sbd = Path(root), Path(sbd)
    train, val = list_names(root, "train"), set(list_names(root, "val"))
    boundary = [name for part in ("train", "val") for name in _sbd_list(sbd / f"{part}.txt")]
    extra = sorted(set(boundary) - val - set(train))
    if (len(train), len(train) + len(extra)) != (labelled, expected):
        raise ValueError(
            f"trainaug has {len(train) + len(extra)} pictures and VOC train {len(train)}, not "
            f"{expected} and {labelled}: {root} or {sbd} is incomplete"
        )
    for name in tqdm(extra, desc="SBD masks", unit="mask"):
        target = root / "SegmentationClassAug" / f"{name}.png"
        if not target.is_file():
            write_mask(target, read_mat(sbd / "cls" / f"{name}.mat"))
    lists = {"train_labelled": train, "train_weak": extra, "trainaug": sorted([*train, *extra])}
    for split, names in lists.items():  # trainaug last: it tells that all is there
        with atomic_path(root / "ImageSets" / "Segmentation" / f"{split}.txt") as temporary:
            temporary.write_text("\n".join(names) + "\n")


def read_mat(path: Path) -> np.ndarray:
    """SBD's mask of one picture, uint8 (H, W); ValueError names a missing or damaged file."""
    try:  # only who unpacks SBD needs it
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError("SBD's masks are MATLAB files: pip install scipy, then go on") from error
    try:
        content = loadmat(path, squeeze_me=True, struct_as_record=False)
        return np.asarray(content["GTcls"].Segmentation, dtype=np.uint8)
    except Exception as error:  # scipy raises many kinds
        raise ValueError(f"cannot read SBD's mask {path}: {error}") from error


def _sbd_list(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path} is missing: is {path.parent} SBD's dataset folder?")
    return path.read_text().split()
