"""Downloads: https alone, resumed where they stopped, of limited size, checked by SHA-256."""

import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

from .locks import only_writer

ALLOWED = ("https://",)  # tests add their loopback server
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 2**20  # bytes
ATTEMPTS = 10  # each must bring something
LARGEST_DOWNLOAD = 100 * 10**9  # bytes
PAGE_BYTES = 2**18  # of a web page that came in place of the file
PAGES = (b"<!doctype html", b"<html")  # how they begin
BINARY = re.compile(  # files that are never text
    r"\.(zip|tar|tgz|gz|bz2|xz|7z|pth|pt|bin|safetensors|npz|npy|mat|h5|onnx|jpe?g|png)$", re.I
)


class WebPageError(OSError):
    """A server answered with a web page in place of the file.

    Attributes:
        page: its text, the beginning.
    """

    def __init__(self, url: str, page: str):
        title = re.search(r"<title[^>]*>(.*?)</title>", page, re.DOTALL | re.IGNORECASE)
        named = f' ("{" ".join(title.group(1).split())[:80]}")' if title else ""
        super().__init__(f"{url} answered with a web page{named}, not with the file")
        self.page = page


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """As urllib; refuses to leave https."""
        if not newurl.startswith(ALLOWED):
            raise OSError(f"{req.full_url} redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download_url(
    url: str, dst: str | os.PathLike, *, sha256: str = "", most: int = LARGEST_DOWNLOAD
) -> None:
    """Download `url` to the file `dst`, which is the whole file or not there.

    What an interrupted download has brought stays in `<dst>.part`; the next call resumes from it
    where the server says that the file is still the same (If-Range). One process at a time writes
    to the folder.

    Args:
        url: https only, redirects included.
        dst: the file.
        sha256: hexadecimal digest that is published for the file, if there is one.
        most: bytes that the file may have.

    Raises:
        ValueError: another protocol than https.
        WebPageError: the server sent a page, such as a login or a quota notice.
        OSError: text (a notice in JSON or XML) in place of an archive or weights, no connection,
            60 s without a byte, fewer bytes than announced (the part is kept), more than
            allowed or than fit on the disk, or another digest (nothing is kept).
    """
    if not url.startswith(ALLOWED):
        raise ValueError(f"{url} is not fetched: downloads use https://.")
    dst = Path(dst)
    part = dst.with_name(dst.name + ".part")
    print(f'* url="{url}"\n* destination="{dst}"')
    was_there = dst.exists()
    with only_writer(dst.parent):
        if dst.exists() and not was_there:  # another process was faster
            return
        _fill(url, part, most)
        digest = sha256_of(part) if sha256 else ""
        if digest != sha256:
            _forget(part)
            raise OSError(f"{url} sent a file of SHA-256 {digest}, not {sha256}")
        os.replace(part, dst)
        _forget(part)


def _fill(url: str, part: Path, most: int) -> None:
    """Try as long as every attempt brings something."""
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(part)
        try:
            _transfer(url, part, most)
            return
        except (OSError, http.client.HTTPException, ValueError) as err:
            if attempt < ATTEMPTS and _size(part) > before:
                continue
            if isinstance(err, OSError) and (url in str(err) or err.filename):
                raise
            raise ConnectionError(f"the connection to {url} failed: {err!r}") from err


def _transfer(url: str, part: Path, most: int) -> None:
    """Append what is missing of `url` to `part`, or begin again where the file has changed."""
    have = _size(part)
    reply = _ask(url, part, have)
    if reply is None:
        return
    with reply:
        is_rest = reply.status == http.client.PARTIAL_CONTENT
        if is_rest and not (reply.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            _forget(part)
            raise OSError(f"{url} answered with another part of the file than bytes {have}-")
        have = have if is_rest else 0
        _refuse_page(url, reply)
        length = reply.headers.get("Content-Length") or ""
        total = have + int(length) if length.isdecimal() else None
        _check_room(url, part, total, have, most)
        _keep_tag(_tag(part), reply.headers)
        size = _write(reply, part, have, total, most)
    if size > most:
        _forget(part)
        raise OSError(f"{url} sends more than {most:,} bytes")
    with part.open("rb") as file:
        start = file.read(PAGE_BYTES)
    if start[:100].lstrip().lower().startswith(PAGES):  # whatever it calls itself
        _forget(part)
        raise WebPageError(url, start.decode("utf-8", "replace"))
    if size < PAGE_BYTES and BINARY.search(part.stem) and (said := _text_in(start)):
        _forget(part)
        raise OSError(f'{url} answered with text, not with the file: "{said[:100]}"')
    if total is not None and size != total:
        raise ConnectionError(f"the connection to {url} ended after {size} of {total} bytes")


def _ask(url: str, part: Path, have: int) -> http.client.HTTPResponse | None:
    """The answer with the rest of the file, or with all of it; None where there is no rest."""
    request = urllib.request.Request(url, headers={"User-Agent": "vltune"})
    version = _tag(part).read_bytes().decode("latin-1") if _tag(part).is_file() else ""
    if have and version.isprintable() and version:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    opener = urllib.request.build_opener(_SecureRedirects)
    try:
        return opener.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as err:
        if not have or err.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise OSError(f"{url} answers {err.code} {err.reason}") from err
        if (err.headers.get("Content-Range") or "").endswith(f"/{have}"):
            return None
        _forget(part)
        return _ask(url, part, 0)


def _write(
    reply: http.client.HTTPResponse, part: Path, have: int, total: int | None, most: int
) -> int:
    """Write what comes, up to one chunk more than `most`; returns the size of the part."""
    from tqdm import tqdm

    with (
        part.open("ab" if have else "wb") as file,
        tqdm(initial=have, total=total, unit="B", unit_scale=True, disable=None) as bar,
    ):
        while file.tell() <= most and (chunk := reply.read(CHUNK)):
            file.write(chunk)
            bar.update(len(chunk))
        return file.tell()


def _refuse_page(url: str, reply: http.client.HTTPResponse) -> None:
    kind = (reply.headers.get("Content-Type") or "").lower()
    if kind.startswith(("text/html", "application/xhtml")):
        raise WebPageError(url, reply.read(PAGE_BYTES).decode("utf-8", "replace"))


def _text_in(data: bytes) -> str:
    """The text that a file holds, in one line; "" for any other content."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return "" if "\0" in text else " ".join(text.split())


def _check_room(url: str, part: Path, total: int | None, have: int, most: int) -> None:
    if total is None:
        return
    if total > most:
        raise OSError(f"{url} announces {total:,} bytes; at most {most:,} are expected")
    free = shutil.disk_usage(part.parent).free
    if total - have > free:
        raise OSError(f"{url} has {total - have:,} bytes to come; {part.parent} has {free:,} free")


def _keep_tag(tag: Path, headers: Message) -> None:
    """Remember which version of the file this is: its strong ETag, or its date."""
    etag = headers.get("ETag") or ""
    version = etag if etag.startswith('"') else headers.get("Last-Modified") or ""
    if version:
        tag.write_text(version, encoding="utf-8")
    else:
        tag.unlink(missing_ok=True)


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".version")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
