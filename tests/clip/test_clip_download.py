"""Downloads from a local server: checked, resumable, atomic, and clear when they fail."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import threading
from pathlib import Path

import pytest

from clip import clip, download

CONTENT = bytes(range(256)) * 9000  # 2.3 MB: more than two chunks


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with Range support; `plan` can cut a reply short or change it."""

    def do_GET(self):
        server = self.server
        start = self.headers.get("Range")
        first = int(start.split("=")[1].rstrip("-")) if start and server.plan != "no_range" else 0
        server.requests.append(first)
        if server.plan == "missing":
            self.send_error(404)
            return
        if first >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.plan == "cut":
            server.plan = ""
            body = body[: len(body) // 2]
        if server.plan == "wrong":
            body = bytes(len(body))
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.plan, server.requests = "", []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def url(server) -> str:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return f"http://127.0.0.1:{server.server_address[1]}/{digest}/weights.pt"


def test_a_file_is_downloaded_once(server, url, tmp_path):
    path = clip._download(url, tmp_path / "a" / "b")

    assert isinstance(path, str)
    assert Path(path).read_bytes() == CONTENT
    assert clip._download(url, tmp_path / "a" / "b") == path
    assert server.requests == [0]
    assert not list(tmp_path.rglob("*.part"))


def test_an_interrupted_download_goes_on_where_it_stopped(server, url, tmp_path):
    (tmp_path / "weights.pt.part").write_bytes(CONTENT[:1000])

    path = clip._download(url, tmp_path)

    assert Path(path).read_bytes() == CONTENT
    assert server.requests == [1000]


def test_a_lost_connection_is_resumed_within_the_call(server, url, tmp_path):
    server.plan = "cut"

    path = clip._download(url, tmp_path)

    assert Path(path).read_bytes() == CONTENT
    assert server.requests[0] == 0
    assert server.requests[1] > 0


@pytest.mark.parametrize("left", [b"rubbish" * 100, CONTENT + b"more"])
def test_a_wrong_beginning_is_thrown_away(server, url, tmp_path, left):
    (tmp_path / "weights.pt.part").write_bytes(left)

    path = clip._download(url, tmp_path)

    assert Path(path).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_everything_again(server, url, tmp_path):
    server.plan = "no_range"
    (tmp_path / "weights.pt.part").write_bytes(CONTENT[:1000])

    path = clip._download(url, tmp_path)

    assert Path(path).read_bytes() == CONTENT


def test_a_file_with_another_digest_is_never_used(server, url, tmp_path):
    server.plan = "wrong"

    with pytest.raises(RuntimeError, match="SHA-256"):
        clip._download(url, tmp_path)
    assert not (tmp_path / "weights.pt").exists()
    assert not (tmp_path / "weights.pt.part").exists()


def test_a_damaged_file_is_replaced(server, url, tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"damaged")

    path = clip._download(url, tmp_path)

    assert Path(path).read_bytes() == CONTENT


def test_the_cache_variable_names_the_folder(url, tmp_path, monkeypatch):
    monkeypatch.setenv(download.CACHE_VARIABLE, str(tmp_path))

    assert clip._download(url) == str(tmp_path / "weights.pt")
    assert clip.weights_path("ViT-B/16") == tmp_path / "ViT-B-16.pt"
    assert clip.weights_path("ViT-B/16", "/elsewhere") == Path("/elsewhere/ViT-B-16.pt")


def test_a_failed_download_says_what_is_missing_and_how_to_get_it(server, url, tmp_path):
    server.plan = "missing"

    with pytest.raises(RuntimeError) as info:
        clip._download(url, tmp_path)

    message = str(info.value)
    assert "weights.pt are missing" in message
    assert str(tmp_path / "weights.pt") in message
    assert "CLIP_CACHE" in message
    assert server.requests == [0]


def test_a_damaged_file_that_cannot_be_replaced_is_called_damaged(server, url, tmp_path):
    server.plan = "missing"
    (tmp_path / "weights.pt").write_bytes(CONTENT[:-1])

    with pytest.raises(RuntimeError, match="weights.pt are damaged"):
        clip._download(url, tmp_path)


def test_missing_openai_weights_name_the_hub_alternative(server, tmp_path, monkeypatch):
    server.plan = "missing"
    base = f"http://127.0.0.1:{server.server_address[1]}"
    local = clip._MODELS["ViT-L/14@336px"].replace(clip._URL, base)
    monkeypatch.setitem(clip._MODELS, "ViT-L/14@336px", local)

    with pytest.raises(RuntimeError) as info:
        clip.load("ViT-L/14@336px", download_root=tmp_path)

    assert "timm/vit_large_patch14_clip_336.openai" in str(info.value)
    assert "open_clip:ViT-L-14-336-quickgelu/openai" in str(info.value)


@pytest.mark.skipif(os.name != "posix", reason="file locks are those of POSIX systems")
def test_two_downloads_at_once_fetch_the_file_once(server, url, tmp_path):
    threads = [
        threading.Thread(target=functools.partial(clip._download, url, tmp_path)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (tmp_path / "weights.pt").read_bytes() == CONTENT
    assert server.requests == [0]


def test_a_missing_embedded_backbone_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="belongs to the package"):
        clip._download(str(tmp_path / "toy.pt"))
