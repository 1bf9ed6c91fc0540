"""The real download code against a small server on this machine, kind and unkind."""

import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest
from scipy.io import savemat

from clims_lib.__main__ import main
from clims_lib.data import download
from clims_lib.data.download import SOURCES, Source, check_space, fetch, get_voc2012, unpack
from clims_lib.data.sbd import add_sbd
from clims_lib.data.voc import list_names, read_mask, write_mask


class Unkind(http.server.BaseHTTPRequestHandler):
    """Serves `files`; stops after `die_after` bytes if that is set; understands Range or not."""

    files, die_after, ranges, asked = {}, None, True, []

    def do_GET(self):
        content = self.files.get(self.path.lstrip("/"))
        if content is None:
            return self.send_error(404)
        wanted = self.headers.get("Range")
        type(self).asked.append(wanted)
        start = int(wanted[6:-1]) if wanted and self.ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = None if self.die_after is None else start + self.die_after
        self.wfile.write(content[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    class Handler(Unkind):
        files, asked = {}, []

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        Handler.address = f"http://127.0.0.1:{running.server_port}"
        yield Handler
        running.shutdown()


def offer(server, name: str, content: bytes) -> Source:
    server.files[name] = content
    digest = hashlib.sha256(content).hexdigest()
    return Source(f"{server.address}/{name}", "sha256", digest, 0)


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


CONTENT = bytes(range(256)) * 4000


def test_a_good_server_is_asked_once(server, tmp_path):
    source = offer(server, "a.bin", CONTENT)
    assert fetch(source, tmp_path).read_bytes() == CONTENT
    assert fetch(source, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_dies_midway_is_resumed(server, tmp_path, ranges):
    source = offer(server, "a.bin", CONTENT)
    server.die_after = 300_000
    with pytest.raises(ConnectionError, match="300000 of 1024000 bytes.*put it at .*a.bin"):
        fetch(source, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin.part"]
    server.die_after, server.ranges = None, ranges
    assert fetch(source, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_finished_part_is_taken(server, tmp_path):
    source = offer(server, "a.bin", CONTENT)
    (tmp_path / "a.bin.part").write_bytes(CONTENT)  # killed just before the renaming
    assert fetch(source, tmp_path).read_bytes() == CONTENT


def test_wrong_content_is_never_used(server, tmp_path):
    source = offer(server, "a.bin", CONTENT)
    server.files["a.bin"] = CONTENT[:-1] + b"!"
    with pytest.raises(ValueError, match="sha256 was .* again from http"):
        fetch(source, tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.bin").write_bytes(CONTENT[:100])  # put there by hand, cut short
    with pytest.raises(ValueError, match="deleted"):
        fetch(source, tmp_path)


def test_no_network_says_what_to_do(tmp_path):
    nowhere = Source("http://127.0.0.1:9/VOC.tar", "md5", "0", 0)
    with pytest.raises(ConnectionError, match="get the file yourself and put it at .*VOC.tar"):
        fetch(nowhere, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("absolute", [False, True])
def test_an_archive_that_leads_out_is_refused(tmp_path, absolute):
    name = f"{tmp_path}/evil.txt" if absolute else "../../evil.txt"
    (tmp_path / "a.tgz").write_bytes(tar_of({"in/good.txt": b"good", name: b"evil"}))
    target = tmp_path / "deep" / "er" / "out"
    if absolute:  # the filter strips the slash: it stays inside, harmless
        assert unpack(tmp_path / "a.tgz", "in", target).is_dir()
    else:
        with pytest.raises(ValueError, match="a.tgz cannot be unpacked"):
            unpack(tmp_path / "a.tgz", "in", target)
        assert not target.exists() and not list(target.parent.iterdir())
    assert not list(tmp_path.rglob("evil.txt"))


def test_broken_archives_leave_nothing(tmp_path):
    whole = tar_of({"in/a.bin": np.random.default_rng(0).bytes(100_000)})
    (tmp_path / "cut.tgz").write_bytes(whole[:50_000])
    for inside, message in (("in", "cannot be unpacked"), ("other", "cannot be unpacked")):
        with pytest.raises(ValueError, match=message):
            unpack(tmp_path / "cut.tgz", inside, tmp_path / "out")
    (tmp_path / "whole.tgz").write_bytes(whole)
    with pytest.raises(ValueError, match="no folder other"):
        unpack(tmp_path / "whole.tgz", "other", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial"))


@pytest.fixture
def archives(tmp_path):
    """VOC with 2 train and 1 val picture; SBD that adds 2 and repeats one of each."""
    voc, sbd = {}, {}
    base = "VOCdevkit/VOC2012/ImageSets/Segmentation"
    voc[f"{base}/train.txt"], voc[f"{base}/val.txt"] = b"t1\nt2\n", b"v1\n"
    voc["VOCdevkit/VOC2012/JPEGImages/t1.jpg"] = b"picture"
    write_mask(tmp_path / "t1.png", np.ones((4, 5), int))
    voc["VOCdevkit/VOC2012/SegmentationClass/t1.png"] = (tmp_path / "t1.png").read_bytes()
    inside = "benchmark_RELEASE/dataset"
    sbd[f"{inside}/train.txt"], sbd[f"{inside}/val.txt"] = b"s1\nt1\n", b"s2\nv1\n"
    for value, name in enumerate(("s1", "s2"), start=7):
        mat = io.BytesIO()
        savemat(mat, {"GTcls": {"Segmentation": np.full((4, 5), value, np.uint8)}})
        sbd[f"{inside}/cls/{name}.mat"] = mat.getvalue()
    return tar_of(voc), tar_of(sbd)


def test_voc_and_sbd_become_trainaug(server, tmp_path, archives, monkeypatch):
    monkeypatch.setattr(download, "add_sbd", lambda r, s: add_sbd(r, s, expected=4, labelled=2))
    names = ("voc.tar", "sbd.tgz")
    sources = {n.split(".")[0]: offer(server, n, a) for n, a in zip(names, archives, strict=True)}
    root = get_voc2012(tmp_path / "data", sources)
    assert list_names(root, "trainaug") == ("s1", "s2", "t1", "t2")
    assert list_names(root, "train_labelled") == ("t1", "t2")
    assert list_names(root, "train_weak") == ("s1", "s2")
    assert (read_mask(root / "SegmentationClassAug" / "s2.png") == 8).all()
    asked = len(server.asked)
    assert get_voc2012(tmp_path / "data", sources) == root and len(server.asked) == asked


def test_an_incomplete_data_set_is_noticed(server, tmp_path, archives):
    sources = {"voc": offer(server, "v.tar", archives[0]), "sbd": offer(server, "s", archives[1])}
    with pytest.raises(ValueError, match="trainaug has 4 pictures and VOC train 2, not 10582 and"):
        get_voc2012(tmp_path, sources)
    assert not (tmp_path / "VOC2012/ImageSets/Segmentation/trainaug.txt").exists()


def test_space_is_said_beforehand(tmp_path, monkeypatch, capsys):
    sources = {
        "voc": Source("http://h/voc.tar", "md5", "", 100),
        "sbd": Source("http://h/sbd.tgz", "md5", "", 10),
        "clip": Source("http://h/clip.pt", "md5", "", 1),
    }
    assert "111 MB to download, 331 MB on disk" in check_space(tmp_path, sources)
    (tmp_path / "VOC2012").mkdir()
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "sbd.tgz").write_text("there, but not unpacked")
    assert "1 MB to download, 21 MB on disk" in check_space(tmp_path, sources)
    monkeypatch.setitem(SOURCES, "voc", SOURCES["voc"]._replace(megabytes=10**9))
    assert main(["download", "voc2012", "--data-root", str(tmp_path / "new")]) == 1
    assert "choose another disk with --data-root" in capsys.readouterr().err


def test_everything_at_once(server, tmp_path, archives, monkeypatch, capsys):
    monkeypatch.setattr(download, "add_sbd", lambda r, s: add_sbd(r, s, expected=4, labelled=2))
    sources = {
        "voc": offer(server, "v.tar", archives[0]),
        "sbd": offer(server, "s", archives[1]),
        "clip": offer(server, "clip.pt", CONTENT),
    }
    root = download.get_all(tmp_path, sources)
    assert len(list_names(root, "trainaug")) == 4
    assert (tmp_path / "weights" / "clip.pt").read_bytes() == CONTENT
    assert "MB to download" in capsys.readouterr().out
    assert download.get_all(tmp_path, sources) == root and len(server.asked) == 3


def test_the_sources_are_the_libraries_own():
    assert SOURCES["voc"].filename == "VOCtrainval_11-May-2012.tar"
    assert {len(SOURCES[n].digest) for n in ("ViT-B/32", "RN50")} == {64}
    assert SOURCES["resnet101"].filename == f"resnet101-{SOURCES['resnet101'].digest}.pth"
    assert all(s.url.startswith("http") and len(s.digest) >= 8 for s in SOURCES.values())
