"""Fetch what the voc2012 profile needs: clims download voc2012

PASCAL VOC2012 and SBD from where torchvision finds them, CLIP from where `clip` does, ResNet-50
and DeepLab's ResNet-101 from torchvision's weights. A broken download goes on where it stopped;
nothing is used before its checksum is right; archives are unpacked beside and then renamed.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets import SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT
from torchvision.models import ResNet50_Weights, ResNet101_Weights
from tqdm.auto import tqdm

from clims_lib.clip_model import clip
from clims_lib.data.sbd import add_sbd


class Source(NamedTuple):
    """One file: where it is, its checksum's kind and (beginning of the) digits, its megabytes."""

    url: str
    kind: str
    digest: str
    megabytes: int

    @property
    def filename(self) -> str:
        return self.url.rpartition("/")[2]


def _clip_source(name: str, megabytes: int) -> Source:
    url = clip.clip._MODELS[name]  # the SHA-256 is the folder in the address
    return Source(url, "sha256", url.split("/")[-2], megabytes)


def _resnet_source(url: str, megabytes: int) -> Source:
    digits = url.rpartition("-")[2].split(".")[0]  # the checksum's first, in the address
    return Source(url, "sha256", digits, megabytes)


_VOC = DATASET_YEAR_DICT["2012"]
SOURCES = {
    "voc": Source(_VOC["url"], "md5", _VOC["md5"], 1908),
    "sbd": Source(SBDataset.url, "md5", SBDataset.md5, 1352),
    "ViT-B/32": _clip_source("ViT-B/32", 338),
    "RN50": _clip_source("RN50", 244),
    "resnet50": _resnet_source(ResNet50_Weights.IMAGENET1K_V1.url, 98),
    "resnet101": _resnet_source(ResNet101_Weights.IMAGENET1K_V1.url, 171),
}
UNPACKED = {"voc": "VOC2012", "sbd": "SBD"}  # the archives, and the folders they become


def fetch(source: Source, folder: Path) -> Path:
    """Return folder/<the address's file name>, downloaded unless it is there and checked.

    What came before a broken connection stays in <name>.part and the next call goes on from it.
    Raises ValueError for a wrong checksum (the file is deleted), ConnectionError when the server
    cannot be reached or stops midway; both say where to get the file and where to put it.
    """
    folder = Path(folder)
    path, part = folder / source.filename, folder / f"{source.filename}.part"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _download(source, part)
        except (urllib.error.URLError, OSError) as error:
            raise ConnectionError(
                f"could not download {source.url} ({error}). Run this again to go on from what "
                f"is there, or get the file yourself and put it at {path}"
            ) from error
        part.replace(path)
    found = _digest(path, source.kind)
    if not found.startswith(source.digest):
        path.unlink()
        raise ValueError(
            f"{path} was deleted: its {source.kind} was {found}, not {source.digest}. Download it "
            f"again from {source.url}"
        )
    return path


def _download(source: Source, part: Path) -> None:
    """Append to `part` what it still lacks."""
    done = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={done}-"} if done else {}
    request = urllib.request.Request(source.url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # nothing lies beyond: it is all there
            return
        raise
    with answer:
        if answer.status != 206:  # this server cannot go on in the middle
            done = 0
        total = done + int(answer.headers.get("Content-Length") or 0)
        with (
            open(part, "ab" if done else "wb") as file,
            tqdm(
                total=total or None, initial=done, unit="B", unit_scale=True, desc=source.filename
            ) as progress,
        ):
            while block := answer.read(1 << 20):
                file.write(block)
                progress.update(len(block))
                done += len(block)
    if done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes")


def _digest(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def unpack(archive: Path, inside: str, target: Path) -> Path:
    """Unpack an archive's folder `inside` as `target`, which appears whole or not at all.

    Python's "data" filter refuses absolute names, "..", devices and links that lead out. Raises
    ValueError naming the archive when it holds such a thing, is broken, or lacks the folder.
    """
    archive, target = Path(archive), Path(target)
    if target.is_dir():
        return target
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with tarfile.open(archive) as opened:
            for member in tqdm(opened, desc=f"unpacking {archive.name}", unit="file"):
                opened.extract(member, partial, filter="data")
        if not (partial / inside).is_dir():
            raise ValueError(f"{archive} has no folder {inside}")
        (partial / inside).replace(target)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def get_voc2012(data_root: Path, sources: dict[str, Source] = SOURCES) -> Path:
    """VOC2012 with SBD's masks and lists, unless it is there; returns data_root/VOC2012."""
    data_root = Path(data_root)
    root, downloads = data_root / "VOC2012", data_root / "downloads"
    if not root.is_dir():
        unpack(fetch(sources["voc"], downloads), "VOCdevkit/VOC2012", root)
    if not (root / "ImageSets" / "Segmentation" / "trainaug.txt").is_file():
        sbd = data_root / "SBD"
        if not sbd.is_dir():
            unpack(fetch(sources["sbd"], downloads), "benchmark_RELEASE/dataset", sbd)
        add_sbd(root, sbd)
    return root


def get_weights(data_root: Path, sources: dict[str, Source] = SOURCES) -> list[Path]:
    """CLIP and both ResNets in data_root/weights."""
    names = [name for name in sources if name not in UNPACKED]
    return [fetch(sources[name], Path(data_root) / "weights") for name in names]


def get_all(data_root: Path, sources: dict[str, Source] = SOURCES) -> Path:
    """Whatever is not there yet of VOC2012 and all weights; returns VOC2012's folder.

    Raises ValueError before any download where SciPy or room on the disk is missing.
    """
    check_scipy(data_root)
    print(check_space(data_root, sources))
    root = get_voc2012(data_root, sources)
    get_weights(data_root, sources)
    return root


def space_needed(data_root: Path, sources: dict[str, Source] = SOURCES) -> tuple[int, int]:
    """Megabytes still to download, and on disk with what is unpacked, of what is not there yet."""
    archives = unpacked = 0
    for name, source in sources.items():
        target = Path(data_root) / UNPACKED.get(name, f"weights/{source.filename}")
        if not target.exists():
            unpacked += 2 * source.megabytes if name in UNPACKED else 0  # about
            if not (Path(data_root) / "downloads" / source.filename).is_file():
                archives += source.megabytes
    return archives, archives + unpacked


def check_space(data_root: Path, sources: dict[str, Source] = SOURCES) -> str:
    """Say what is still to come; raises ValueError when the disk has less room than that."""
    data_root = Path(data_root)
    data_root.mkdir(parents=True, exist_ok=True)
    archives, need = space_needed(data_root, sources)
    free = shutil.disk_usage(data_root).free >> 20
    said = f"{archives:,} MB to download, {need:,} MB on disk with what is unpacked"
    if free < need:
        raise ValueError(
            f"{said}, but {data_root} has only {free:,} MB free: "
            "choose another disk with --data-root"
        )
    return f"{said} ({free:,} MB are free at {data_root})"


def check_scipy(data_root: Path) -> None:
    """Raise ValueError where SBD's masks are still to be read and SciPy is not installed."""
    lists = Path(data_root) / "VOC2012" / "ImageSets" / "Segmentation"
    if not (lists / "trainaug.txt").is_file() and find_spec("scipy") is None:
        raise ValueError("SBD's masks are MATLAB files: pip install scipy")
