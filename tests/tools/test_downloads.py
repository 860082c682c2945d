"""Downloads from a server on the loopback that drops, truncates, changes and answers with pages."""

import hashlib
import re

import pytest
from download_server import serving

from dassl.utils import downloads
from dassl.utils.downloads import WebPageError, download_url

CONTENT = bytes(range(256)) * 9000  # 2.3 MB: more than two chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "ALLOWED", ("https://", "http://127.0.0.1:"))
    with serving({"/file.zip": CONTENT}) as server:
        yield server


def left(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_dropped_connection_is_resumed_where_it_stopped(server, tmp_path):
    server.plan = "drop"

    download_url(f"{server.url}/file.zip", tmp_path / "file.zip", sha256=DIGEST)

    assert [first for _, first in server.requests] == [0, len(CONTENT) // 2]
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert left(tmp_path) == ["file.zip"]


def half_done(server, folder):
    """A part from an earlier call, of the file as it was then."""
    (folder / "file.zip.part").write_bytes(CONTENT[:1000])
    (folder / "file.zip.part.version").write_text(server.tag)


def test_the_next_call_resumes_from_the_part(server, tmp_path):
    half_done(server, tmp_path)

    download_url(f"{server.url}/file.zip", tmp_path / "file.zip", sha256=DIGEST)

    assert server.requests == [("/file.zip", 1000)]


def test_a_file_that_has_changed_is_not_joined_with_an_older_part(server, tmp_path):
    half_done(server, tmp_path)
    server.tag = '"second"'

    download_url(f"{server.url}/file.zip", tmp_path / "file.zip", sha256=DIGEST)

    assert server.requests == [("/file.zip", 0)]


def test_a_part_that_is_the_whole_file_is_not_fetched_again(server, tmp_path):
    half_done(server, tmp_path)
    (tmp_path / "file.zip.part").write_bytes(CONTENT)

    download_url(f"{server.url}/file.zip", tmp_path / "file.zip", sha256=DIGEST)

    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_dropped(server, tmp_path):
    half_done(server, tmp_path)
    (tmp_path / "file.zip.part").write_bytes(CONTENT + b"more")

    download_url(f"{server.url}/file.zip", tmp_path / "file.zip", sha256=DIGEST)

    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    half_done(server, tmp_path)
    server.plan = "no_range"

    download_url(f"{server.url}/file.zip", tmp_path / "file.zip", sha256=DIGEST)

    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_truncated_file_is_not_kept_under_its_name(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    server.plan = "drop"

    with pytest.raises(OSError, match=f"ended after {len(CONTENT) // 2} of {len(CONTENT)} bytes"):
        download_url(f"{server.url}/file.zip", tmp_path / "file.zip")

    assert left(tmp_path) == ["file.zip.part", "file.zip.part.version"]


def test_a_web_page_in_place_of_the_file_is_named_and_not_kept(server, tmp_path):
    server.plan = "page"

    with pytest.raises(WebPageError, match=r'answered with a web page \("Quota exceeded"\), not'):
        download_url(f"{server.url}/file.zip", tmp_path / "file.zip")

    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "notice",
    [
        b'{"error": "Rate limit exceeded", "status": 429}',
        b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        b"Not Found\n",
    ],
)
@pytest.mark.parametrize("name", ["file.zip", "moco.pth.tar"])
def test_a_notice_in_place_of_weights_is_shown_and_not_kept(server, tmp_path, notice, name):
    server.files[f"/{name}"] = notice

    with pytest.raises(
        OSError, match=f'answered with text, not with the file: "{re.escape(notice[:9].decode())}'
    ):
        download_url(f"{server.url}/{name}", tmp_path / name)

    assert left(tmp_path) == []


def test_a_list_is_text_and_kept(server, tmp_path):
    server.files["/split.json"] = b'{"train": []}'

    download_url(f"{server.url}/split.json", tmp_path / "split.json")

    assert left(tmp_path) == ["split.json"]


def test_a_dead_link_is_said_with_its_status(server, tmp_path):
    with pytest.raises(OSError, match="/gone.zip answers 404 Not Found"):
        download_url(f"{server.url}/gone.zip", tmp_path / "gone.zip")


def test_a_file_that_does_not_fit_on_the_disk_is_refused_at_once(server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda folder: usage)

    with pytest.raises(OSError, match="2,304,000 bytes to come; .* has 1,000 free"):
        download_url(f"{server.url}/file.zip", tmp_path / "file.zip")

    assert left(tmp_path) == []


@pytest.mark.parametrize("kind", ["application/octet-stream", "TEXT/HTML", "application/xhtml+xml"])
def test_a_web_page_under_another_name_is_known_by_its_beginning(server, tmp_path, kind):
    server.files["/page.zip"] = b"\n<!DOCTYPE html><title>Quota</title>"
    server.headers = {"Content-Type": kind}

    with pytest.raises(WebPageError, match='answered with a web page .*"Quota"'):
        download_url(f"{server.url}/page.zip", tmp_path / "page.zip")

    assert left(tmp_path) == []


@pytest.mark.parametrize("version", [b"\n\x01", b'"a"\r\nX: y', b"\xff\xfe"])
def test_a_damaged_note_on_the_version_of_a_part_begins_again(server, tmp_path, version):
    half_done(server, tmp_path)
    (tmp_path / "file.zip.part.version").write_bytes(version)

    download_url(f"{server.url}/file.zip", tmp_path / "file.zip", sha256=DIGEST)

    assert [first for _, first in server.requests] == [0]


def test_an_answer_that_is_not_http_is_said_with_its_address(server, tmp_path, monkeypatch):
    def ask(*_):
        raise ValueError("read length must be non-negative")

    monkeypatch.setattr(downloads, "_ask", ask)

    with pytest.raises(ConnectionError, match=f"the connection to {server.url}/x failed"):
        download_url(f"{server.url}/x", tmp_path / "x")
