"""Teachers behind HTTP: whom the token reaches, which replies are taken, what a server answers."""

import base64
import io
import json
import logging
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from PIL import Image

from tools.teacher_server import TeacherServer
from trainers.common.teachers import http, transport
from trainers.common.teachers.http import HttpTeacher
from trainers.common.teachers.teacher import CallableTeacher
from trainers.common.teachers.transport import TOKEN_VARIABLE, check_address

SECRET = "s3cr3t-token"
INFO = (200, {}, b'{"name": "a teacher", "scale": 50}')


def serve(server):
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


class Scripted(BaseHTTPRequestHandler):
    """Answers with what the server's table holds for the path: (status, headers, body)."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, self.headers.get("Authorization")))
        status, headers, body = self.server.table[self.path]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body(self) if callable(body) else body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def scripted():
    servers = []

    def start(**table):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
        server.table = {"/info": INFO} | {f"/{path}": reply for path, reply in table.items()}
        server.seen = []
        servers.append(server)
        return serve(server), server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def teacher(url, tmp_path, **options):
    options = {"wait": 0.0, "retries": 0, "timeout": 5.0} | options
    return HttpTeacher(url, cache=tmp_path / "c.sqlite", **options)


# --------------------------------------------------------------------- the token
@pytest.mark.parametrize("code", [301, 302, 307, 308])
@pytest.mark.parametrize("path", ["info", "text"])
def test_a_token_does_not_follow_a_redirect_to_another_host(
    scripted, tmp_path, monkeypatch, code, path
):
    monkeypatch.setenv(TOKEN_VARIABLE, SECRET)
    thief_url, thief = scripted()
    url, _ = scripted(**{path: (code, {"Location": f"{thief_url}/{path}"}, b"")})

    with pytest.raises(RuntimeError, match=f"redirects to {thief_url}/{path}. Give that address"):
        teacher(url, tmp_path).encode_text(["a"])

    assert thief.seen == []


@pytest.mark.parametrize("code", [302, 307])
def test_a_redirect_to_the_same_origin_is_followed(scripted, tmp_path, monkeypatch, code):
    monkeypatch.setenv(TOKEN_VARIABLE, SECRET)
    answer = {"v2/text": (200, {}, b'{"embeddings": [[3, 4]]}')}
    url, server = scripted(text=(code, {"Location": "/v2/text"}, b""), **answer)

    rows = teacher(url, tmp_path).encode_text(["a"])

    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8]]), rtol=0, atol=1e-6)
    assert server.seen[-1] == ("POST", "/v2/text", f"Bearer {SECRET}")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.org", "would travel to example.org unencrypted. Use https://"),
        ("http://192.168.1.7:8008", "would travel to 192.168.1.7 unencrypted"),
        ("http://127.0.0.1.example.org", "would travel to"),
        ("https://me:pass@example.org", "holds a user or password"),
        ("https://", "is not the address of a teacher"),
    ],
)
def test_addresses_that_would_give_a_secret_away_are_refused(monkeypatch, url, message):
    monkeypatch.setenv(TOKEN_VARIABLE, SECRET)

    with pytest.raises(ValueError, match=message) as caught:
        check_address(url)

    assert SECRET not in str(caught.value) and "pass@" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"])
def test_the_token_may_stay_on_this_machine(monkeypatch, url):
    monkeypatch.setenv(TOKEN_VARIABLE, SECRET)

    check_address(url)
    check_address("https://example.org")


@pytest.mark.parametrize("bad", ["two words", "line\nend", "caf\u00e9"])
def test_a_token_that_no_header_can_hold_is_refused_without_showing_it(monkeypatch, bad):
    monkeypatch.setenv(TOKEN_VARIABLE, bad)

    with pytest.raises(ValueError, match=TOKEN_VARIABLE) as caught:
        check_address("https://example.org")

    assert bad not in str(caught.value)


@pytest.mark.parametrize("status", [400, 403, 503])
def test_an_endpoint_that_echoes_the_token_does_not_get_it_into_the_log(
    scripted, tmp_path, monkeypatch, caplog, status
):
    monkeypatch.setenv(TOKEN_VARIABLE, SECRET)
    caplog.set_level(logging.DEBUG)
    name = json.dumps({"name": f"echo {SECRET}\x1b[2J"}).encode()
    url, _ = scripted(
        info=(200, {}, name),
        text=(status, {}, lambda handler: handler.headers["Authorization"].encode()),
    )
    remote = teacher(url, tmp_path, retries=1)

    with pytest.raises(RuntimeError) as caught:
        remote.encode_text(["a"])

    assert SECRET not in f"{caught.value}{caught.value.__cause__}{caplog.text}{remote.name}"
    assert remote.name == "echo ***?[2J"


# --------------------------------------------------------------------- replies
REPLIES = {
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"3",
    "no embeddings": b"{}",
    "text": b'{"embeddings": [["1.5", "2"]]}',
    "ragged": b'{"embeddings": [[1, 2], [1]]}',
    "too many": b'{"embeddings": [[1, 2], [3, 4]]}',
    "flat": b'{"embeddings": [1, 2]}',
    "nan": b'{"embeddings": [[NaN, 1]]}',
    "overflow": b'{"embeddings": [[1e300, 1]]}',
    "huge integer": b'{"embeddings": [[1' + b"0" * 400 + b", 1]]}",
    "null row": b'{"embeddings": [[null, 1]]}',
    "truth": b'{"embeddings": [[true, false]]}',
    "zeros": b'{"embeddings": [[0, 0]]}',
    "empty row": b'{"embeddings": [[]]}',
    "deep": b'{"embeddings": ' + b"[" * 100_000,
    "web page": b"<html>please log in</html>",
    "latin-1": b'{"a": "\xe9"}',
    "digits": b'{"embeddings": [[' + b"1" * 5000 + b"]]}",
    "empty": b"",
}


@pytest.mark.parametrize("kind", REPLIES)
def test_every_malformed_reply_is_one_clear_error(scripted, tmp_path, kind):
    url, _ = scripted(text=(200, {}, REPLIES[kind]))

    with pytest.raises(RuntimeError, match=rf"{url}/text (cannot be used|answered|gave no answer)"):
        teacher(url, tmp_path).encode_text(["a"])


@pytest.mark.parametrize("place", ["http://[::1", "http://127.0.0.1:99999/"])
def test_a_redirect_to_what_is_no_address_is_one_clear_error(scripted, tmp_path, place):
    url, _ = scripted(text=(302, {"Location": place}, b""))

    with pytest.raises(RuntimeError, match=rf"{url}/text cannot be used: "):
        teacher(url, tmp_path).encode_text(["a"])


def test_a_refusal_is_one_error_with_its_reason_where_the_body_breaks_off(scripted, tmp_path):
    url, _ = scripted(text=(403, {"Content-Length": "1000"}, b"too many images"))

    with pytest.raises(RuntimeError, match=f"{url}/text refused: HTTP 403. too many images"):
        teacher(url, tmp_path).encode_text(["a"])


@pytest.mark.parametrize("scale", ["0", "-1", "NaN", '"big"', "true", "null", "[1]", "9" * 400])
def test_a_scale_that_is_not_a_positive_number_is_refused(scripted, tmp_path, scale):
    url, _ = scripted(info=(200, {}, f'{{"scale": {scale}}}'.encode()))

    with pytest.raises(RuntimeError, match="/info gives the scale .*expected a positive number"):
        teacher(url, tmp_path)


def test_a_reply_of_another_width_than_before_is_refused(scripted, tmp_path):
    url, server = scripted(text=(200, {}, b'{"embeddings": [[1, 2]]}'))
    remote = teacher(url, tmp_path)
    remote.encode_text(["a"])
    server.table["/text"] = (200, {}, b'{"embeddings": [[1, 2, 3]]}')

    with pytest.raises(RuntimeError, match=r"answered \(1, 3\) for 1 items; expected \(1, 2\)"):
        remote.encode_text(["b"])


def test_an_endless_reply_is_cut(scripted, tmp_path, monkeypatch):
    monkeypatch.setattr(transport, "LARGEST_REPLY", 1000)
    url, _ = scripted(text=(200, {}, b" " * 5000))

    with pytest.raises(RuntimeError, match="its reply has more than 1,000 bytes"):
        teacher(url, tmp_path).encode_text(["a"])


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_reply_that_drips_ends_in_time(part, tmp_path):
    listener = socket.create_server(("127.0.0.1", 0))

    def drip():
        connection, _ = listener.accept()
        connection.recv(1000)
        with suppress(OSError):
            connection.sendall(b"HTTP/1.0 200 OK\r\n" + b"\r\n" * (part == "body"))
            for _ in range(100):
                connection.sendall(b"X")
                time.sleep(0.05)

    threading.Thread(target=drip, daemon=True).start()
    started = time.monotonic()

    with pytest.raises(RuntimeError, match="no whole reply within 0.3 s"):
        teacher(f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path, timeout=0.3)

    assert time.monotonic() - started < 3
    listener.close()


@pytest.mark.parametrize("pause", ["\xb2", "-1", "later", "9" * 30])
def test_a_senseless_retry_after_is_no_harm(scripted, tmp_path, monkeypatch, pause):
    waits = []
    monkeypatch.setattr(http.time, "sleep", waits.append)
    url, _ = scripted(text=(503, {"Retry-After": pause}, b""))

    with pytest.raises(RuntimeError, match="gave no answer in 2 tries"):
        teacher(url, tmp_path, retries=1).encode_text(["a"])

    assert waits and max(waits) <= http.LONGEST_WAIT


# --------------------------------------------------------------------- the server
def encode_texts(texts):
    if "too long" in texts:
        raise RuntimeError("Input too long is too long for context length 77")
    if "no memory" in texts:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return torch.ones(len(texts), 2)


@pytest.fixture(scope="module")
def server():
    answers = CallableTeacher(lambda images: images.flatten(1)[:, :2] + 2, encode_texts)
    statistics = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    server = TeacherServer(("127.0.0.1", 0), answers, **statistics, token=SECRET, seconds=0.5)
    serve(server)
    yield server
    server.shutdown()
    server.server_close()


def ask(server, head, body=b"", *, pause=0.0, token=SECRET):
    """Send bytes as they are, slowly if asked; returns status (0: none) and body of the reply."""
    with socket.create_connection(server.server_address[:2], timeout=5) as connection:
        connection.sendall("\r\n".join([head, f"Authorization: Bearer {token}", "", ""]).encode())
        reply = b""
        with suppress(OSError):
            for start in range(0, len(body), 4 if pause else 2**20):
                connection.sendall(body[start : start + (4 if pause else 2**20)])
                time.sleep(pause)
        with suppress(OSError):
            while more := connection.recv(65536):
                reply += more
    return int(reply.split()[1]) if reply else 0, reply.rpartition(b"\r\n\r\n")[2].decode()


def post(server, content, path="/text", **options):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return ask(server, f"POST {path} HTTP/1.0\r\nContent-Length: {len(body)}", body, **options)


@pytest.mark.parametrize("length", ["-1", "1e3", "many", "9" * 40, "9" * 12, ""])
def test_a_bad_content_length_gets_a_4xx(server, length):
    status, reply = ask(server, f"POST /text HTTP/1.0\r\nContent-Length: {length}")

    assert status in (400, 413) and "error" in json.loads(reply)


def test_a_missing_content_length_gets_a_411(server):
    assert ask(server, "POST /text HTTP/1.0")[0] == 411


def image(side, mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


BODIES = {
    "deep": (b"[" * 100_000, "/text", 400),
    "not json": (b"{", "/text", 400),
    "not unicode": (b"\xff\xfe", "/text", 400),
    "a list": ([1], "/text", 400),
    "no texts": ({}, "/text", 400),
    "numbers": ({"texts": [1, 2]}, "/text", 400),
    "one string": ({"texts": "abc"}, "/text", 400),
    "no items": ({"texts": []}, "/text", 400),
    "too long": ({"texts": ["too long"]}, "/text", 400),
    "too many": ({"texts": ["a"] * 5000}, "/text", 400),
    "not base64": ({"images": ["***"]}, "/image", 400),
    "not an image": ({"images": ["aGVsbG8="]}, "/image", 400),
    "bomb": ({"images": [image(12_000, "1")]}, "/image", 400),
    "many pixels": ({"images": [image(2_000, "1")] * 70}, "/image", 413),
    "two sizes": ({"images": [image(4), image(5)]}, "/image", 400),
    "no address": ({"texts": ["a"]}, "/other", 404),
}


@pytest.mark.parametrize("kind", BODIES)
def test_every_bad_body_gets_a_4xx_and_a_reason(server, kind):
    content, path, expected = BODIES[kind]

    status, reply = post(server, content, path)

    assert status == expected and json.loads(reply)["error"]


def test_a_want_of_memory_is_the_server_s_fault_and_may_pass(server):
    status, reply = post(server, {"texts": ["no memory"]})

    assert status == 503 and "out of memory" in json.loads(reply)["error"]


@pytest.mark.parametrize("sent", [b"", b"{", b'{"texts": ["a"'])
def test_a_body_that_does_not_arrive_in_time_gets_a_408(server, sent):
    head = "POST /text HTTP/1.0\r\nContent-Length: 1000"

    status, reply = ask(server, head, sent, pause=0.1)

    assert status == 408
    assert json.loads(reply)["error"] == f"{len(sent)} of 1000 bytes arrived"


def test_only_the_token_opens_the_server(server):
    assert post(server, {"texts": ["a"]})[0] == 200
    assert post(server, {"texts": ["a"]}, token="another")[0] == 401
    assert ask(server, "GET /info HTTP/1.0", token="")[0] == 401
    assert ask(server, "GET /info HTTP/1.0")[0] == 200


def test_good_requests_are_answered_after_bad_ones(server):
    status, reply = post(server, {"images": [image(4), image(4)]}, "/image")

    assert status == 200
    assert torch.tensor(json.loads(reply)["embeddings"]).shape == (2, 2)
