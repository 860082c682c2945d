"""One HTTP request to an endpoint: bounded in time and size, and careful with the token.

The token is sent over https, or over plain http within this machine; a redirect is followed to the
same origin only; no text that leaves this module holds the token.
"""

import http.client
import io
import ipaddress
import os
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import SplitResult, urlsplit

TOKEN_VARIABLE = "VLTUNE_TEACHER_TOKEN"  # sent as a bearer token
LONGEST_REASON = 500  # bytes of a refusal that are read
LARGEST_REPLY = 64 * 2**20  # bytes; 64 embeddings of 1024 numbers have about 1.5 MB
MASK = "***"
_PORTS = {"http": 80, "https": 443}


class RefusedReply(Exception):
    """A reply that no further attempt makes better."""


def token() -> str:
    """The token of the environment; "" if there is none.

    Raises:
        ValueError: if it cannot be sent in a header; does not show it.
    """
    given = os.environ.get(TOKEN_VARIABLE, "")
    if not given.isascii() or not given.isprintable() or " " in given:
        raise ValueError(
            f"{TOKEN_VARIABLE} holds blanks, line ends or other characters that no token has."
        )
    return given


def masked(text: str) -> str:
    """A text without the token."""
    given = os.environ.get(TOKEN_VARIABLE, "")
    return text.replace(given, MASK) if given else text


def check_address(url: str) -> None:
    """Refuse an address that would give the token away, or holds a password itself.

    Raises:
        ValueError: saying what to do.
    """
    parts = urlsplit(url)
    if parts.username or parts.password:
        place = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
        raise ValueError(
            f"The address of the teacher at {place} holds a user or password. Leave it out: a "
            f"token is given in the environment variable {TOKEN_VARIABLE}."
        )
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(
            f'"{url}" is not the address of a teacher: expected http(s)://host[:port].'
        )
    if token() and parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError(
            f"{TOKEN_VARIABLE} would travel to {parts.hostname} unencrypted. Use https://, a "
            "tunnel to this machine, or unset the variable."
        )


def _with_its_reason(error: urllib.error.HTTPError) -> urllib.error.HTTPError:
    """The same refusal with its reason already read, while the time of the request still runs."""
    said = b""
    with error, suppress(OSError, http.client.HTTPException, ValueError):
        said = error.read(LONGEST_REASON)
    return urllib.error.HTTPError(error.url, error.code, error.msg, error.headers, io.BytesIO(said))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def send(request: urllib.request.Request, seconds: float) -> bytes:
    """Send a request; returns the body of the reply.

    Args:
        request: with all its headers.
        seconds: for everything, from the connection to the last byte.

    Raises:
        RefusedReply: a redirect elsewhere, or more than LARGEST_REPLY bytes.
        TimeoutError: no whole reply in time.
        OSError, http.client.HTTPException: as urllib.
    """
    with _within(seconds) as watch:
        handlers = [_SameOrigin(), _Http(watch), _Https(watch)]
        if is_loopback(urlsplit(request.full_url).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))  # no proxy sees what stays here
        opener = urllib.request.build_opener(*handlers)
        try:
            with opener.open(request, timeout=seconds) as reply:
                body = reply.read(LARGEST_REPLY + 1)
        except urllib.error.HTTPError as error:
            raise _with_its_reason(error) from None
        except (OSError, http.client.HTTPException, ValueError):
            if watch.is_late:
                raise TimeoutError(f"no whole reply within {seconds:g} s") from None
            raise
    if watch.is_late:
        raise TimeoutError(f"no whole reply within {seconds:g} s")
    if len(body) > LARGEST_REPLY:
        raise RefusedReply(f"its reply has more than {LARGEST_REPLY:,} bytes")
    return body


class Watch:
    """Ends the reading from a connection when its time is up, however slowly bytes drip."""

    def __init__(self) -> None:
        self.socket: socket.socket | None = None
        self.is_late = False

    def end(self) -> None:
        """Let whoever reads find the end; an answer can still be sent."""
        self.is_late = True
        if self.socket is not None:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RD)


@contextmanager
def _within(seconds: float) -> Iterator[Watch]:
    watch = Watch()
    timer = threading.Timer(seconds, watch.end)
    timer.daemon = True
    timer.start()
    try:
        yield watch
    finally:
        timer.cancel()


def _watched(kind: type[http.client.HTTPConnection], watch: Watch) -> Callable:
    """What makes connections whose socket the watch knows."""

    def make(host: str, **options: object) -> http.client.HTTPConnection:
        connection = kind(host, **options)  # type: ignore[arg-type]
        connect = connection.connect

        def connect_watched() -> None:
            connect()
            watch.socket = connection.sock
            if watch.is_late:  # while it connected, when there was nothing to shut down yet
                watch.end()

        connection.connect = connect_watched  # type: ignore[method-assign]
        return connection

    return make


class _Http(urllib.request.HTTPHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_watched(http.client.HTTPConnection, self.watch), req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        make = _watched(http.client.HTTPSConnection, self.watch)
        return self.do_open(make, req, context=ssl.create_default_context())


class _SameOrigin(urllib.request.HTTPRedirectHandler):
    """Follows redirects within one scheme, host and port."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """As urllib, but a POST stays one; refuses another origin."""
        if _origin(urlsplit(req.full_url)) != _origin(urlsplit(newurl)):
            where = masked(newurl)
            raise RefusedReply(f"it redirects to {where}. Give that address if it is meant")
        if req.data is None:
            return super().redirect_request(req, fp, code, msg, headers, newurl)
        return urllib.request.Request(newurl, data=req.data, headers=dict(req.header_items()))


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
