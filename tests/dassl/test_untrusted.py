"""Downloads, archives, cells and terminals: what comes from elsewhere is held in bounds."""

import gzip
import io
import logging
import os
import stat
import tarfile
import zipfile
from pathlib import Path
from urllib.request import Request

import pytest

import predict
from dassl.terminal import Printable, printable
from dassl.utils import download_url, downloads
from dassl.utils.archives import unpack
from dassl.utils.text import cell
from trainers.common.teachers.build import build_teacher


# --------------------------------------------------------------------- downloads
class Reply(io.BytesIO):
    """A stand-in for what an https server answers."""

    def __init__(self, content, length=None):
        super().__init__(content)
        self.status = 200
        self.headers = {} if length is None else {"Content-Length": str(length)}


@pytest.fixture
def answer(monkeypatch):
    def use(reply):
        opener = type("Opener", (), {"open": staticmethod(lambda request, timeout: reply)})
        monkeypatch.setattr(downloads.urllib.request, "build_opener", lambda *_: opener)

    return use


@pytest.mark.parametrize(
    "url", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd"]
)
def test_downloads_use_https_alone(tmp_path, url):
    with pytest.raises(ValueError, match="is not fetched: downloads use https://"):
        download_url(url, tmp_path / "x")


@pytest.mark.parametrize("target", ["http://example.org/y", "ftp://example.org/y"])
def test_a_redirect_does_not_leave_https(target):
    handler = downloads._SecureRedirects()

    with pytest.raises(OSError, match="redirects to .* not https"):
        handler.redirect_request(Request("https://example.org/x"), None, 302, "", {}, target)


@pytest.mark.parametrize(
    ("reply", "options", "message"),
    [
        (Reply(b"12345"), {"sha256": "0" * 64}, "sent a file of SHA-256 59944"),
        (Reply(b"1" * 50), {"most": 40}, "sends more than 40 bytes"),
        (Reply(b"1" * 50, length=50), {"most": 40}, "announces 50 bytes; at most 40 are expected"),
    ],
)
def test_a_download_that_is_not_what_was_announced_is_not_kept(
    tmp_path, answer, reply, options, message
):
    answer(reply)

    with pytest.raises(OSError, match=message):
        download_url("https://example.org/x", tmp_path / "x", **options)

    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_download_with_its_digest_is_kept(tmp_path, answer):
    answer(Reply(b"12345", length=5))
    digest = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"

    download_url("https://example.org/x", tmp_path / "x", sha256=digest)

    assert (tmp_path / "x").read_bytes() == b"12345"


# --------------------------------------------------------------------- archives
def zip_of(path, **entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def tar_of(path, *infos):
    with tarfile.open(path, "w:gz") as archive:
        for info, content in infos:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def entry(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_with_link(path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return path


BAD = {
    "zip above": lambda path: zip_of(path, **{"../x": b"1"}),
    "zip root": lambda path: zip_of(path, **{"/x": b"1"}),
    "zip windows": lambda path: zip_of(path, **{"..\\x": b"1", "a": b"1"}),
    "zip drive": lambda path: zip_of(path, **{"C:/x": b"1"}),
    "zip link": zip_with_link,
    "tar above": lambda path: tar_of(path, (entry("a/../../x"), b"1")),
    "tar root": lambda path: tar_of(path, (entry("/x"), b"1")),
    "tar link": lambda path: tar_of(path, (entry("x", tarfile.SYMTYPE, "/etc"), b"")),
    "tar hard link": lambda path: tar_of(path, (entry("x", tarfile.LNKTYPE, "y"), b"")),
    "tar pipe": lambda path: tar_of(path, (entry("x", tarfile.FIFOTYPE), b"")),
    "tar device": lambda path: tar_of(path, (entry("x", tarfile.CHRTYPE), b"")),
}


def cut(path, *, keep):
    path.write_bytes(path.read_bytes()[:keep])
    return path


def with_password(path):
    zip_of(path, a=b"1" * 50)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    return path


def one_of_several(path):
    record = b"PK\6\6" + bytes(52) + b"PK\6\7" + bytes(12) + b"\2\0\0\0"
    path.write_bytes(record + b"PK\5\6" + b"\xff" * 16 + b"\0\0")
    return path


DAMAGED = {
    "tar cut": lambda path: cut(tar_of(path, (entry("x"), os.urandom(5000))), keep=3000),
    "tar cut early": lambda path: cut(tar_of(path, (entry("x"), b"1")), keep=30),
    "zip changed": lambda path: path.write_bytes(
        zip_of(path, x=b"1").read_bytes()[:30] + bytes(90)
    ),
    "zip cut": lambda path: cut(zip_of(path, x=os.urandom(5000)), keep=3000),
    "zip with a password": with_password,
    "zip of several files": one_of_several,
    "web page": lambda path: path.write_text("<html>Sign in</html>"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_an_archive_that_is_cut_or_damaged_is_named(tmp_path, kind):
    path = tmp_path / "x.bin"
    DAMAGED[kind](path)

    with pytest.raises(ValueError, match=r"x\.bin .*(to download it again|Unpack it by hand)"):
        unpack(path, tmp_path / "here")


@pytest.mark.parametrize("kind", BAD)
def test_an_archive_that_reaches_out_of_its_folder_is_not_unpacked(tmp_path, kind):
    path = BAD[kind](tmp_path / "x.bin")
    folder = tmp_path / "deep" / "here"
    folder.mkdir(parents=True)

    with pytest.raises(ValueError, match="x.bin is not unpacked: its entry .* (leaves|is a link)"):
        unpack(path, folder)

    assert list(folder.iterdir()) == [] and len(list(tmp_path.rglob("x"))) == 0


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("dassl.utils.archives.GENEROUS", 1000)
    zeros = b"\0" * 10**6
    if kind == "zip":
        path = zip_of(tmp_path / "x", zeros=zeros)
    else:
        path = tar_of(tmp_path / "x", (entry("zeros"), zeros))

    with pytest.raises(ValueError, match="it unfolds to 1,000,000 bytes in 1 entries"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("make", [zip_of, lambda p, **e: tar_of(p, (entry("a/b"), e["a/b"]))])
def test_an_honest_archive_is_unpacked(tmp_path, make):
    unpack(make(tmp_path / "x", **{"a/b": b"1"}), tmp_path / "out")

    assert (tmp_path / "out" / "a" / "b").read_bytes() == b"1"


def test_what_is_not_an_archive_is_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"<html>")

    with pytest.raises(ValueError, match="x.zip is neither a zip nor a tar archive"):
        unpack(tmp_path / "x.zip", tmp_path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("kept", [1024, 1536])
def test_a_tar_archive_that_ends_after_a_whole_entry_is_truncated(tmp_path, mode, kept):
    with tarfile.open(tmp_path / "whole.tar", "w") as archive:
        for name in ("a", "b"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    data = (tmp_path / "whole.tar").read_bytes()
    assert len(data) > 2048 and not any(data[1024:])  # two headers, then the end
    pack = gzip.compress if mode == "w:gz" else bytes
    (tmp_path / "x.tar").write_bytes(pack(data[: kept - 512]))

    with pytest.raises(ValueError, match="x.tar is damaged .it is truncated.*Delete it to downl"):
        unpack(tmp_path / "x.tar", tmp_path)
    (tmp_path / "x.tar").write_bytes(pack(data[:1536]))
    unpack(tmp_path / "x.tar", tmp_path)
    assert (tmp_path / "b").exists()


# --------------------------------------------------------------------- cells and terminals
@pytest.mark.parametrize("text", ["=cmd|'/c calc'!A1", "+1+2x", "-2+3x", "@SUM(1)", "\t=1", "\r=1"])
def test_text_that_a_spreadsheet_would_compute_is_marked(text):
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["cat", "-", "-1.5", "+3", "-1e-3", "a=b", 3, 2.5, None, ""])
def test_other_values_stay(value):
    assert cell(value) == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\rb", r"a\rb"),
        ("a\u202ebpj.exe", r"a\u202ebpj.exe"),
        ("a\udce9b", r"a\udce9b"),
        ("a\x9b31mb", r"a\x9b31mb"),
        ("caf\u00e9\t\u732b\n", "caf\u00e9\t\u732b\n"),
    ],
)
def test_names_cannot_steer_the_terminal(text, shown, capsys):
    assert printable(text) == shown
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s!", (text,), None)
    assert Printable().filter(record) and record.getMessage() == f"{shown}!"


def test_log_filter_cleans_the_arguments_and_the_message(caplog):
    caplog.handler.addFilter(Printable())
    try:
        logging.getLogger("x").warning("a\x1b[2J %s %d", ["b\x9b31m", Path("c\x1b")], 3)
    finally:
        caplog.handler.filters.clear()

    assert caplog.text.endswith(r"a\x1b[2J ['b\x9b31m', PosixPath('c\x1b')] 3" + "\n")


def test_predictions_neutralise_names_in_csv_files_and_on_the_terminal(tmp_path, capsys):
    rows = [{"image": "=x.jpg", "rank": 1, "class": "@cat", "probability": 0.5}]

    predict.write_rows(tmp_path / "o.csv", rows)
    predict.write_rows(tmp_path / "o.json", rows)

    assert (tmp_path / "o.csv").read_text().splitlines()[1] == "'=x.jpg,1,'@cat,0.5"
    assert '"=x.jpg"' in (tmp_path / "o.json").read_text()


def test_a_teacher_that_is_code_is_announced_before_it_is_imported(tmp_path, monkeypatch, caplog):
    (tmp_path / "evil_teacher.py").write_text("raise ImportError('imported')")
    monkeypatch.syspath_prepend(os.fspath(tmp_path))

    with pytest.raises(ValueError, match="imported"):
        build_teacher(
            "python:evil_teacher:make", device="cpu", scale=1.0, norm="imagenet", mean=(), std=()
        )

    assert "runs code: it imports evil_teacher and calls make" in caplog.text
