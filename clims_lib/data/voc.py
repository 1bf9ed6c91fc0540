"""Read and write data sets in the PASCAL VOC layout: MiniWorld and real VOC alike.

root/JPEGImages/<name>.jpg           pictures
root/SegmentationClass/<name>.png    masks, palette PNG: 0 background, 1..K classes, 255 ignore
root/SegmentationClassAug/<name>.png masks of pictures that have none there (SBD's; optional)
root/ImageSets/Segmentation/*.txt    the splits, one picture name a line
root/ImageSets/Main/*.txt            image-level labels, <class>_<split>.txt (optional)
root/SegmentationGround/<name>.png   what lies under the objects (MiniWorld only)
root/classes.txt, root/grounds.txt   names, one a line (without classes.txt: VOC's twenty)
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clims_lib.labels import IGNORE, palette

VOC_CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor".split()
)


class Sample(NamedTuple):
    """One picture: image uint8 (3, H, W), label float (K,) in {0, 1}, mask uint8 (H, W) or None."""

    name: str
    image: Tensor
    label: Tensor
    mask: Tensor | None


def class_names(root: str | Path) -> tuple[str, ...]:
    """Return the folder's classes in its masks' order: root/classes.txt, else VOC's twenty."""
    path = Path(root) / "classes.txt"
    return _lines(path) if path.exists() else VOC_CLASSES


def ground_names(root: str | Path) -> tuple[str, ...]:
    """Return the lines of root/grounds.txt; ValueError where the data set has no grounds."""
    return _lines(Path(root) / "grounds.txt")


def has_list(root: str | Path, split: str) -> bool:
    """Tell whether there is a list of that name."""
    return (Path(root) / "ImageSets" / "Segmentation" / f"{split}.txt").is_file()


def list_names(root: str | Path, split: str) -> tuple[str, ...]:
    """Return the picture names of a split's list; ValueError tells which lists there are."""
    folder = Path(root) / "ImageSets" / "Segmentation"
    path = folder / f"{split}.txt"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.txt"))) or "none"
        raise ValueError(f"there is no list {path}; lists that exist: {there}")
    names = _lines(path)
    wrong = next((name for name in names if len(name.split()) > 1 or "/" in name), None)
    if wrong is not None:
        raise ValueError(f"{path} has the line {wrong!r}: give one picture name a line")
    return names


def read_image(path: str | Path) -> Tensor:
    """Read a picture as uint8 RGB (3, H, W); ValueError names a missing or damaged file."""
    pixels = _open(path, "picture", lambda picture: np.array(picture.convert("RGB")))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask as uint8 array (H, W) of indices; ValueError names a missing or damaged file."""

    def indices(picture: Image.Image) -> np.ndarray:
        if picture.mode not in ("P", "L"):
            raise ValueError(
                f"{path} is a {picture.mode} picture: a mask is a palette PNG of class indices "
                "(write it with write_mask)"
            )
        return np.array(picture)

    return _open(path, "mask", indices)


def read_mask_files(paths: Iterable[str | Path]) -> Iterator[np.ndarray]:
    """Yield the masks of many files in order; several threads read, 64 files ahead at most."""
    paths = list(paths)
    # Pillow decodes outside the interpreter's lock; more threads than cores only queue for it.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), 64):
            yield from pool.map(read_mask, paths[start : start + 64])


def mask_picture(mask: np.ndarray) -> Image.Image:
    """Return indices uint8 (H, W) as a Pillow picture with VOC's palette."""
    picture = Image.fromarray(mask)
    picture.putpalette(palette().tobytes())
    return picture


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write integers 0..255 (H, W) as a palette PNG; the file appears whole or not at all."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "ui" or mask.min() < 0 or mask.max() > 255:
        raise ValueError(
            f"mask for {path} must be whole numbers 0..255 of shape (H, W), "
            f"not {mask.dtype} of shape {mask.shape}"
        )
    picture = mask_picture(mask.astype(np.uint8))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # mkstemp's files are for their owner only
            picture.save(file, format="PNG")
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class VOCFolder(torch.utils.data.Dataset):
    """One split of a VOC-layout folder; item i is a Sample.

    classes picks and orders the K labels (default: all of class_names(root)); objects of classes
    left out become background. Labels come from ImageSets/Main, and for pictures that it does not
    list from the classes in their masks: real VOC leaves its 2007 pictures out there. With
    masks=False such a mask is still read for the label, but never handed out. labels=False is for
    pictures that have neither, as VOC's test pictures: only `image` works then.
    ValueError names the file that is missing, empty, damaged or does not fit.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        classes: Sequence[str] | None = None,
        masks: bool = True,
        labels: bool = True,
    ):
        self.root, self.split, self.masks = Path(root), split, masks
        known = class_names(self.root)
        self.classes = known if classes is None else tuple(classes)
        unknown = [name for name in self.classes if name not in known]
        if unknown or len(set(self.classes)) < len(self.classes) or not self.classes:
            raise ValueError(
                f"classes {list(self.classes)}: each must be one of {self.root}'s, named once: "
                f"{', '.join(known)}" + (f" (unknown: {', '.join(unknown)})" if unknown else "")
            )
        self._known = len(known)
        self._index = np.zeros(256, dtype=np.uint8)  # index in the file -> index handed out
        self._index[IGNORE] = IGNORE
        for new, name in enumerate(self.classes, start=1):
            self._index[known.index(name) + 1] = new
        self.names = list_names(self.root, split)
        self._lists: list[Path] = []  # of ImageSets/Main, those that were read
        self._labels = self._read_main() if labels else {}
        self._check_files("JPEGImages", ".jpg", self.names)
        self._aug = {path.stem for path in (self.root / "SegmentationClassAug").glob("*.png")}
        need_mask = [n for n in self.names if masks or labels and n not in self._labels]
        own = [n for n in need_mask if n not in self._aug]
        self._check_files("SegmentationClass", ".png", own)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> Sample:
        name, image = self.names[i], self.image(i)
        mask = self._mask(name, image.shape[1:]) if self.masks else None
        label = self._label(name, mask)
        return Sample(name, image, label, None if mask is None else torch.from_numpy(mask))

    def image(self, i: int) -> Tensor:
        """Return picture i, uint8 (3, H, W)."""
        return read_image(self.root / "JPEGImages" / f"{self.names[i]}.jpg")

    def label(self, i: int) -> Tensor:
        """Return picture i's image-level label, float (K,), without reading the picture."""
        return self._label(self.names[i], None)

    def files(self, kind: str) -> list[Path]:
        """Return the files that decide the split's "images", "labels", "masks" or "grounds"."""
        if kind == "images":
            return [self.root / "JPEGImages" / f"{name}.jpg" for name in self.names]
        if kind == "grounds":
            names = [self.root / "grounds.txt"]
            return names + [self.root / "SegmentationGround" / f"{n}.png" for n in self.names]
        names = [path for path in (self.root / "classes.txt",) if path.is_file()]
        unlisted = [name for name in self.names if kind == "masks" or name not in self._labels]
        lists = self._lists if kind == "labels" else []
        return [*names, *lists, *(self._mask_path(name) for name in unlisted)]

    def ground(self, i: int) -> Tensor:
        """Return uint8 (H, W): indices of what lies under the objects; ValueError if not there."""
        path = self.root / "SegmentationGround" / f"{self.names[i]}.png"
        return torch.from_numpy(read_mask(path))

    def _label(self, name: str, mask: np.ndarray | None) -> Tensor:
        if name in self._labels:
            return self._labels[name].clone()
        present = np.unique(self._mask(name) if mask is None else mask)
        label = torch.zeros(len(self.classes))
        label[[int(k) - 1 for k in present if k not in (0, IGNORE)]] = 1.0
        return label

    def _mask_path(self, name: str) -> Path:
        path = self.root / "SegmentationClass" / f"{name}.png"
        if name in self._aug and not path.is_file():  # SBD's; VOC's own mask is the better one
            return self.root / "SegmentationClassAug" / f"{name}.png"
        return path

    def _mask(self, name: str, size: Sequence[int] | None = None) -> np.ndarray:
        path = self._mask_path(name)
        mask = read_mask(path)
        if size is not None and mask.shape != tuple(size):
            raise ValueError(
                f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, its picture "
                f"{size[1]} x {size[0]}: mask and picture must have the same size"
            )
        wrong = [int(k) for k in np.unique(mask) if self._known < k < IGNORE]
        if wrong:
            raise ValueError(
                f"{path} holds the class indices {wrong}, but {self.root} has only "
                f"{self._known} classes (1..{self._known}, 0 background, 255 ignore)"
            )
        return self._index[mask]

    def _read_main(self) -> dict[str, Tensor]:
        """Return {name: label (K,)} for those pictures of the split that ImageSets/Main lists."""
        folder = self.root / "ImageSets" / "Main"
        # A split of its own (train_weak, trainaug) finds its labels in the other splits' lists.
        pattern = self.split if any(folder.glob(f"*_{self.split}.txt")) else "*"
        labels: dict[str, Tensor] = {}
        for k, name in enumerate(self.classes):
            paths = sorted(folder.glob(f"{name}_{pattern}.txt"))
            if not paths and any(folder.glob(f"*_{pattern}.txt")):
                raise ValueError(f"there is no list {folder / f'{name}_{pattern}.txt'}")
            self._lists += paths
            for path in paths:
                for line in _lines(path):
                    picture, value = _main_line(path, line)
                    labels.setdefault(picture, torch.full((len(self.classes),), -1.0))[k] = value
        labels = {name: labels[name] for name in self.names if name in labels}
        for name, label in labels.items():
            if label.min() < 0:
                missing = self.classes[int(label.argmin())]
                raise ValueError(f"{folder}: no {missing} list has the picture {name}")
        return labels

    def _check_files(self, folder: str, suffix: str, names: Sequence[str]) -> None:
        there = {path.name for path in (self.root / folder).glob(f"*{suffix}")}
        missing = [name for name in names if name + suffix not in there]
        if missing:
            first = self.root / folder / (missing[0] + suffix)
            raise ValueError(
                f"{first} is missing (and {len(missing) - 1} more of the {len(self.names)} "
                f"pictures of split {self.split!r})"
            )


def _main_line(path: Path, line: str) -> tuple[str, float]:
    """Split "<picture> 1 | 0 | -1"; 0 means hard to see, but there."""
    parts = line.split()
    if len(parts) != 2 or parts[1] not in ("1", "0", "-1"):
        raise ValueError(f'{path} has the line {line!r}: expected "<picture> 1" or "<picture> -1"')
    return parts[0], float(parts[1] != "-1")


def _lines(path: str | Path) -> tuple[str, ...]:
    """Return the non-empty lines of a text file, which must have some and each only once."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    lines = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    if not lines:
        raise ValueError(f"{path} is empty")
    if len(set(lines)) < len(lines):
        twice = next(line for i, line in enumerate(lines) if line in lines[:i])
        raise ValueError(f"{path} has the line {twice!r} twice")
    return lines


def _open(path: str | Path, what: str, read: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Open a picture file and return read(picture), turning every failure into a named one."""
    if not Path(path).is_file():
        raise ValueError(f"the {what} {path} is missing")
    try:
        with Image.open(path) as picture:
            return read(picture)
    except (OSError, SyntaxError) as error:  # Pillow reports broken PNGs as SyntaxError
        raise ValueError(f"cannot read the {what} {path}, it may be cut short: {error}") from error
