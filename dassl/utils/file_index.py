"""What a file was when it was last read (its content, say), so that it need not be read again.

A file is known by path, size, times and inode; any change there only costs one more reading of the
file. Records are appended by several processes, each to a file of its own.
"""

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .image import open_regular

logger = logging.getLogger(__name__)
IMAGE_BYTES = 16  # length of a digest
RECORD = np.dtype([("stat", "S16"), ("image", "S16"), ("check", "<u4")])
WEIGHTS = (2 * np.arange(1, 9, dtype="<u4") + 1) * np.uint32(2654435761)  # odd, all different
TOO_FRESH = 0.05  # seconds; within a tick of the clock a file can change and keep its times
THREADS = 8


def image_digest(data: bytes) -> bytes:
    """Digest of a file's content: what tells images apart, wherever they are."""
    return hashlib.blake2b(data, digest_size=IMAGE_BYTES).digest()


def stat_digest(path: str, handle: int | None = None) -> tuple[bytes, float]:
    """Digest of a file's path, size, times and inode, and the time of its last change.

    Raises:
        OSError: if the file does not exist.
    """
    stat = os.stat(path if handle is None else handle)
    times = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    text = f"{os.path.abspath(path)}|{times}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=IMAGE_BYTES)
    return digest.digest(), max(stat.st_mtime, stat.st_ctime)


def segment_name() -> str:
    """A name of its own for every writer; names sort by the time of their making."""
    return f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"


def _check(records: np.ndarray) -> np.ndarray:
    """(n,) uint32 checksums of the two digests of each record."""
    digests = [np.ascontiguousarray(records[name]).view("<u4") for name in ("stat", "image")]
    words = np.concatenate([d.reshape(len(records), 4) for d in digests], axis=1)
    return (words * WEIGHTS).sum(axis=1, dtype=np.uint32) ^ np.uint32(0x5EED)


class Identities:
    """Stat digest -> image digest, in memory and in a folder.

    Args:
        folder: made on the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new: dict[bytes, bytes] = {}
        parts = [self._read(path) for path in sorted(folder.glob("*.ids"))]
        records = np.concatenate(parts) if parts else np.empty(0, dtype=RECORD)
        order = np.argsort(records["stat"], kind="stable")
        self._stats, self._images = records["stat"][order], records["image"][order]

    @staticmethod
    def _read(path: Path) -> np.ndarray:
        raw = path.read_bytes()
        records = np.frombuffer(raw[: len(raw) // RECORD.itemsize * RECORD.itemsize], RECORD)
        return records[_check(records) == records["check"]]

    def lookup(self, paths: Sequence[str]) -> tuple[np.ndarray, list[int]]:
        """Digests of files that did not change since they were read.

        Returns:
            images: (N,) of dtype S16, empty where unknown; places: those of the unknown ones. A
            file that does not exist is unknown.
        """
        images = np.zeros(len(paths), dtype="S16")
        stats = np.zeros(len(paths), dtype="S16")
        unknown = []
        for i, path in enumerate(paths):
            try:
                stats[i] = stat = stat_digest(path)[0]
            except OSError:
                unknown.append(i)
                continue
            images[i] = self._new.get(stat, b"")
        place, found = self._find(stats)
        found &= images == b""
        images[found] = self._images[place[found]]
        return images, sorted({*unknown, *np.flatnonzero(images == b"").tolist()})

    def _find(self, stats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places among the stored records, and whether each is there."""
        if not len(self._stats):
            return np.zeros(len(stats), dtype=np.int64), np.zeros(len(stats), dtype=bool)
        place = np.searchsorted(self._stats, stats).clip(max=len(self._stats) - 1)
        return place, (self._stats[place] == stats) & (stats != b"")

    def read(self, paths: Sequence[str]) -> np.ndarray:
        """Read files (no pixel is decoded) for their digests, (n,) S16; empty where unreadable."""
        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(_identify, paths))
        self.remember([stat for stat, _ in found], [image for _, image in found], paths)
        return np.array([image for _, image in found], dtype="S16")

    def remember(
        self, stats: Sequence[bytes], images: Sequence[bytes], paths: Sequence[str]
    ) -> None:
        """Keep what was read, in memory and on disk."""
        now, pairs = time.time(), {}
        stored = self._find(np.array(stats, dtype="S16"))[1]
        for stat, image, path, known in zip(stats, images, paths, stored, strict=True):
            is_new = stat and image and not known and stat not in self._new
            if is_new and _settled(path, stat, now):
                pairs[stat] = image
        if not pairs:
            return
        self._new.update(pairs)
        records = np.empty(len(pairs), dtype=RECORD)
        records["stat"], records["image"] = list(pairs), list(pairs.values())
        records["check"] = _check(records)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{segment_name()}.ids").write_bytes(records.tobytes())
        except OSError as err:  # a bank that others fill, say: the next run reads the files again
            logger.warning(
                "The list of files %s cannot be written (%s).", self.folder, err.strerror
            )


def _identify(path: str) -> tuple[bytes, bytes]:
    try:
        with open_regular(path) as file:
            stat = stat_digest(path, file.fileno())[0]
            return stat, image_digest(file.read())
    except OSError:
        return b"", b""


def _settled(path: str, stat: bytes, now: float) -> bool:
    """Whether the file is still the one that was read, and has not changed this very moment."""
    try:
        current, changed = stat_digest(path)
    except OSError:
        return False
    return current == stat and now - changed > TOO_FRESH
