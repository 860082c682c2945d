"""Download a weights file once: resumable, checked by SHA-256, put in place atomically."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "CLIP_CACHE"
CHUNK = 1 << 20  # bytes
ATTEMPTS = 3
TIMEOUT = 20  # seconds without any answer
LARGEST = 20 * 10**9  # bytes; OpenAI's largest file has 1.3 GB


def weights_dir(root: str | os.PathLike | None = None) -> Path:
    """The folder of downloaded weights: `root`, else $CLIP_CACHE, else ~/.cache/clip."""
    return Path(root or os.environ.get(CACHE_VARIABLE) or "~/.cache/clip").expanduser()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(url: str, root: str | os.PathLike | None = None, *, hint: str = "") -> Path:
    """Return the local copy of `url`, downloading it if needed.

    An interrupted download leaves `<file>.part` and resumes from it.

    Args:
        url: `.../<sha256>/<file>`; the path component before the file is its SHA-256.
        root: folder, see `weights_dir`.
        hint: said in errors: where else the weights can be had.

    Raises:
        RuntimeError: if the file could not be downloaded, or does not match its SHA-256.
    """
    expected, name = url.rstrip("/").split("/")[-2:]
    target = weights_dir(root) / name
    if target.is_file() and sha256(target) == expected:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if target.is_file():
                if sha256(target) == expected:  # another process was faster
                    return target
                logger.warning("%s does not match its SHA-256; downloading it again.", target)
            _download(url, target, expected)
    except (OSError, http.client.HTTPException, ValueError) as err:
        raise RuntimeError(_advice(url, target, err, hint)) from err
    return target


def _download(url: str, target: Path, expected: str) -> None:
    part = target.with_name(target.name + ".part")
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(part)
        try:
            _transfer(url, part)
        except (OSError, http.client.HTTPException):
            if attempt == ATTEMPTS or _size(part) == before:  # nothing came: no use to insist
                raise
            continue
        digest = sha256(part)
        if digest == expected:
            os.replace(part, target)
            return
        part.unlink()
        if not before:
            raise OSError(f"what came has SHA-256 {digest}, expected {expected}; it was removed")
    raise OSError(f"what came has another SHA-256 than {expected} after {ATTEMPTS} attempts")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _transfer(url: str, part: Path) -> None:
    """Append what is missing of `url` to `part`."""
    have = _size(part)
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as err:
        if err.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # complete, or wrong: the SHA-256 tells
        raise
    with response:
        is_partial = response.status == http.client.PARTIAL_CONTENT
        have = have if is_partial else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else None
        with part.open("ab" if is_partial else "wb") as file:
            for chunk in _progress(response, url.split("/")[-1], have, total):
                file.write(chunk)
                if file.tell() > LARGEST:
                    raise ConnectionError(f"{url} sends more than {LARGEST:,} bytes")
        size = part.stat().st_size
        if total is not None and size < total:
            raise ConnectionError(f"the connection ended after {size} of {total} bytes")


def _progress(
    response: http.client.HTTPResponse, name: str, have: int, total: int | None
) -> Iterator[bytes]:
    from tqdm import tqdm

    is_quiet = not sys.stderr.isatty()
    with tqdm(
        desc=name, initial=have, total=total, unit="iB", unit_scale=True, disable=is_quiet
    ) as bar:
        while chunk := response.read(CHUNK):
            bar.update(len(chunk))
            yield chunk


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Let one process at a time download `target`, where the platform has file locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with target.with_name(target.name + ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _advice(url: str, target: Path, err: Exception, hint: str) -> str:
    state = "damaged (another SHA-256 than published)" if target.is_file() else "missing"
    return (
        f"The weights {target.name} are {state} and could not be downloaded ({err}).\n"
        f"  Looked for: {target}\n"
        f"  To get them: download {url} on a machine with network and put the file there; or point "
        f"the environment variable {CACHE_VARIABLE} to a folder that holds it." + hint
    )
