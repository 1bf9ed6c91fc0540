"""The archive that PASCAL VOC's evaluation server takes: the only way to a number on VOC test.

    clims submission outputs/voc2012/segmentations --root data/VOC2012

writes results/VOC2012/Segmentation/comp6_test_cls/<id>.png, one palette picture for every picture
of the list and of its size, into one .tgz. An incomplete or ill-fitting one is refused here.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from clims_lib.artifacts import atomic_path
from clims_lib.data.voc import class_names, list_names, mask_picture, read_mask


def write_submission(
    masks: Path, root: Path, out: Path, *, split: str = "test", competition: str = "comp6"
) -> Path:
    """Write the archive of a split's segmentations and return its path.

    masks: a folder of <id>.png, class indices 0..K at the pictures' own sizes, as `write_mask`
    leaves them; root: the VOC-layout folder with the list and the pictures. competition: "comp6",
    trained on more than VOC's own masks (CLIP is that), or "comp5". Raises ValueError naming the
    first file that is missing, of another size or with an index that is no class; nothing is
    written then.
    """
    masks, root, out = Path(masks), Path(root), Path(out)
    if competition not in ("comp5", "comp6"):
        raise ValueError(f"competition is comp5 or comp6, not {competition!r}")
    names = list_names(root, split)
    missing = [name for name in names if not (masks / f"{name}.png").is_file()]
    if missing:
        raise ValueError(
            f"{masks / missing[0]}.png is missing (of {len(names)} segmentations "
            f"{len(missing)} are): predict them all, then pack"
        )
    classes = len(class_names(root))
    inside = f"results/VOC2012/Segmentation/{competition}_{split}_cls"
    with atomic_path(out) as temporary, tarfile.open(temporary, "w:gz") as archive:
        for name in tqdm(names, desc="packing", unit="picture"):
            content = _encoded(masks / f"{name}.png", root / "JPEGImages" / f"{name}.jpg", classes)
            entry = tarfile.TarInfo(f"{inside}/{name}.png")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return out


def _encoded(path: Path, picture: Path, classes: int) -> bytes:
    """The mask as palette PNG, checked against its picture."""
    mask = read_mask(path)
    try:
        with Image.open(picture) as opened:  # reads the header only
            width, height = opened.size
    except OSError as error:
        raise ValueError(f"cannot read the picture {picture}: {error}") from error
    if mask.shape != (height, width):
        raise ValueError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, its picture "
            f"{width} x {height}: resize the scores, not the mask"
        )
    if mask.max() > classes:
        wrong = np.unique(mask[mask > classes]).tolist()
        raise ValueError(
            f"{path} holds {wrong}: the server takes 0..{classes} only, "
            "so every pixel must be decided"
        )
    buffer = io.BytesIO()
    mask_picture(mask).save(buffer, format="PNG")
    return buffer.getvalue()
