"""A black-box teacher at an HTTP endpoint, with retries and a response cache on disk.

Three requests, JSON both ways (``tools/teacher_server.py`` answers them with any CLIP backbone):

    GET  <url>/info                               -> {"name": str, "scale": float}
    POST <url>/image {"images": [base64 PNG, ..]} -> {"embeddings": [[float, ..], ..]}
    POST <url>/text  {"texts": [str, ..]}         -> {"embeddings": [[float, ..], ..]}

The name says all that answers depend on (the server's backbone and normalisation): answers are kept
per address and name.

An image is sent as the 8-bit pixels that the student sees. Answers are kept in a database under
``VLTUNE_CACHE``: the training views of a run depend on its seed alone, so that a run that is
resumed or repeated pays for no image twice.
"""

import base64
import errno
import hashlib
import http.client
import io
import json
import logging
import os
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dassl.data.pixels import unnormalise
from dassl.utils import cache_dir

from .teacher import Teacher
from .transport import RefusedReply, check_address, masked, send, token

logger = logging.getLogger(__name__)
RETRY_STATUS = (408, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0  # seconds
LONGEST_NAME = 200  # characters of the name that an endpoint gives itself
LARGEST_SCALE = 1e6  # CLIP's is 100
WIDEST = 2**16  # numbers of an embedding
PASSING_ERRORS = (  # no connection, or an answer that was cut off
    urllib.error.URLError,
    TimeoutError,
    ConnectionError,
    http.client.HTTPException,
    json.JSONDecodeError,
    UnicodeDecodeError,
)


class HttpTeacher(Teacher):
    """Ask an endpoint for embeddings; see the module for what is sent.

    Args:
        url: beginning of the three addresses.
        scale: logit scale, if the endpoint does not tell one.
        mean, std: statistics with which the images given to ``encode_image`` are normalised.
        cache: the database file; None is one per endpoint under VLTUNE_CACHE.
        batch_size: items per request.
        retries: further attempts after a failed one.
        wait: seconds before the first further attempt, doubled each time.
        timeout: seconds per request, from the connection to the last byte of the reply.

    Raises:
        ValueError: an address that would give the token away.
        RuntimeError: no usable answer; names the address and the cause.
    """

    def __init__(
        self,
        url: str,
        *,
        scale: float = 100.0,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        cache: Path | None = None,
        batch_size: int = 64,
        retries: int = 5,
        wait: float = 1.0,
        timeout: float = 60.0,
    ) -> None:
        check_address(url)
        self.url = url.rstrip("/")
        self.batch_size, self.retries, self.wait, self.timeout = batch_size, retries, wait, timeout
        info = self._ask("info")
        super().__init__(self._name(info), self._scale(info, scale))
        self.width = 0  # of all embeddings, once one is known
        self.mean, self.std = mean, std
        identity = hashlib.sha256(f"{self.url}\0{self.name}".encode()).hexdigest()[:16]
        self.cache = ResponseCache(cache or cache_dir() / "teacher" / f"{identity}.sqlite")

    def encode_image(self, images: Tensor) -> Tensor:
        pixels = unnormalise(images.cpu(), self.mean, self.std).mul(255).round().clamp(0, 255)
        rows = pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        files = [_png(row) for row in rows]
        answers = self._answers(files, kind="image", encode=_base64)
        self.queries.needed_images += len(files)
        return torch.nn.functional.normalize(answers, dim=-1).to(images.device)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        data = [text.encode() for text in texts]
        answers = self._answers(data, kind="text", encode=bytes.decode)
        self.queries.needed_texts += len(data)
        return torch.nn.functional.normalize(answers, dim=-1)

    def answer_images(self, images: Tensor) -> Tensor:
        return self.encode_image(images)

    def answer_texts(self, texts: list[str]) -> Tensor:
        return self.encode_text(texts)

    def _answers(self, items: list[bytes], *, kind: str, encode: Callable[[bytes], str]) -> Tensor:
        """Embeddings (N, D) of N items; those that are not known are asked for and counted."""
        keys = [hashlib.sha256(kind.encode() + item).digest() for item in items]
        known = self.cache.get(keys)
        missing = {key: item for key, item in zip(keys, items) if key not in known}
        todo = list(missing.items())
        for start in range(0, len(todo), self.batch_size):
            part = todo[start : start + self.batch_size]
            reply = self._ask(kind, {f"{kind}s": [encode(item) for _, item in part]})
            self.queries.ask(**{f"{kind}s": len(part)})  # before the cache calls them known
            rows = self._rows(reply, kind, len(part))
            fresh = {key: row for (key, _), row in zip(part, rows)}
            self.cache.put(fresh)
            known.update(fresh)
        return torch.from_numpy(np.stack([known[key] for key in keys]))

    def _rows(self, reply: dict, kind: str, count: int) -> np.ndarray:
        """The embeddings (count, D) of a reply, float32.

        Raises:
            RuntimeError: if they are something else; nothing of such a reply is kept.
        """
        try:
            rows = np.asarray(reply.get("embeddings"))
        except ValueError:  # of different lengths
            rows = np.asarray(None)
        shape = rows.shape if rows.dtype.kind in "fiu" else f"no rows of numbers ({rows.dtype})"
        fits = rows.dtype.kind in "fiu" and rows.ndim == 2 and len(rows) == count
        if fits and 0 < rows.shape[1] <= WIDEST and rows.shape[1] in (self.width or rows.shape[1],):
            with np.errstate(over="ignore"):
                values = rows.astype(np.float32)
            if np.isfinite(values).all() and values.any(axis=1).all():
                self.width = values.shape[1]
                return values
        raise RuntimeError(
            f"{self.url}/{kind} answered {shape} for {count} items; expected ({count}, "
            f"{self.width or 'D'}), all finite, no row of zeros. Nothing of this answer is kept."
        )

    def _name(self, info: dict) -> str:
        name = masked(str(info.get("name", self.url)))[:LONGEST_NAME]
        return "".join(letter if letter.isprintable() else "?" for letter in name)

    def _scale(self, info: dict, default: float) -> float:
        scale = info.get("scale", default)
        is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not is_number or not 0 < scale < LARGEST_SCALE:
            raise RuntimeError(
                f"The teacher {self.url}/info gives the scale {info['scale']!r:.60}; expected a "
                "positive number."
            )
        return float(scale)

    def _ask(self, path: str, body: dict | None = None) -> dict:
        """One request, repeated while the failure may pass.

        Raises:
            RuntimeError: naming the address, the cause and the number of attempts.
        """
        wait = self.wait
        for attempt in range(self.retries + 1):
            try:
                reply = json.loads(send(self._request(path, body), self.timeout))
                if not isinstance(reply, dict):
                    raise RefusedReply(f"it answered a {type(reply).__name__}, expected an object")
                return reply
            except (RefusedReply, RecursionError) as error:
                cause = str(error) if isinstance(error, RefusedReply) else "its JSON is too deep"
                raise RuntimeError(
                    f"The teacher {self.url}/{path} cannot be used: {cause}."
                ) from None
            except urllib.error.HTTPError as error:
                cause, pause = f"HTTP {error.code}", error.headers.get("Retry-After")
                if error.code not in RETRY_STATUS:
                    said = masked(error.read().decode(errors="replace"))
                    raise RuntimeError(
                        f"The teacher {self.url}/{path} refused: {cause}. {said}".rstrip()
                    ) from None
            except PASSING_ERRORS as error:
                cause, pause = masked(str(getattr(error, "reason", error))), None
            except ValueError as error:  # a number of 5,000 digits, an address that is none
                raise RuntimeError(
                    f"The teacher {self.url}/{path} cannot be used: {masked(str(error))}."
                ) from None
            if attempt < self.retries:
                seconds = float(pause) if pause and pause.isdecimal() else wait
                logger.warning("%s/%s: %s; again in %.1f s.", self.url, path, cause, seconds)
                time.sleep(min(seconds, LONGEST_WAIT))
                wait *= 2
        raise RuntimeError(
            f"The teacher {self.url}/{path} gave no answer in {self.retries + 1} tries ({cause}). "
            "Is the server running (tools/teacher_server.py is an example)? Answers so far are "
            "kept; start the run again to go on."
        )

    def _request(self, path: str, body: dict | None) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if token():
            headers["Authorization"] = f"Bearer {token()}"
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.Request(f"{self.url}/{path}", data=data, headers=headers)


class ResponseCache:
    """Embeddings by key in one SQLite file, which several processes may use at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        with self._open() as database:
            database.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, row BLOB)")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are kept if the block ends well; closed in any case.

        Raises:
            OSError: the file cannot be written or is damaged; says what to do.
        """
        try:
            with closing(sqlite3.connect(self.path, timeout=60.0)) as database, database:
                yield database
        except sqlite3.Error as err:
            if "full" in str(err):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path)) from err
            raise OSError(
                f"The answers of the teacher in {self.path} cannot be read or kept ({err}). Make "
                "its folder writable, or move the file away if it is damaged."
            ) from err

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The rows (D,) that are known."""
        found = {}
        with self._open() as database:
            for key in set(keys):
                row = database.execute("SELECT row FROM answers WHERE key = ?", (key,)).fetchone()
                if row is not None:
                    found[key] = np.frombuffer(row[0], dtype=np.float32)
        return found

    def put(self, rows: dict[bytes, np.ndarray]) -> None:
        """Keep rows (D,)."""
        values = [(key, row.astype(np.float32).tobytes()) for key, row in rows.items()]
        with self._open() as database:
            database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", values)


def _png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 -> a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
