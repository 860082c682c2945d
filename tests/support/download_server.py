"""A server on the loopback for tests of downloads: it can drop, truncate and answer with pages."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files` (path -> bytes) with Range and If-Range; `server.plan` spoils it.

    "drop": half of what was asked for, once. "page": HTML in place of everything. "no_range":
    Range is not understood. "missing": 404. `server.requests` lists (path with query, first byte).
    """

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range", "")
        tag = server.tag
        whole = server.plan == "no_range" or self.headers.get("If-Range", tag) != tag
        first = int(asked.split("=")[1].rstrip("-")) if asked and not whole else 0
        server.requests.append((self.path, first))
        body = server.files.get(self.path.split("?")[0])
        if server.plan == "page" or isinstance(body, str):
            page = body if isinstance(body, str) else "<html><title>Quota\n exceeded</title></html>"
            self.reply(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})
        elif body is None or server.plan == "missing":
            self.reply(404, b"", {})
        elif first >= len(body):
            self.reply(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        else:
            rest = {"Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}"} if first else {}
            headers = {"ETag": tag, **server.headers, **rest}
            self.reply(206 if first else 200, body[first:], headers)

    def do_HEAD(self):
        self.do_GET()

    def reply(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.server.plan == "drop" and status < 300:
            self.server.plan = ""
            self.close_connection = True
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def serving(files: dict[str, bytes | str]) -> Iterator[http.server.ThreadingHTTPServer]:
    """Serve `files` (bytes, or the text of a web page); `server.url` is the address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.plan, server.requests = files, "", []
        server.tag, server.headers = '"first"', {}
        server.handle_error = lambda *about: None  # a client that hangs up is part of the tests
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
