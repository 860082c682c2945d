"""Rows on disk that several processes append to at once.

A store is a folder of segments. A segment belongs to one writer: `<name>.rows` holds float32 rows,
`<name>.index` one record per row with the row's key and a checksum over key and row. Rows are
written before their records, a batch at a time, so that a writer may be killed at any moment: what
has no complete batch of records is not there. A row whose checksum fails is not there either.
"""

import logging
import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dassl.utils.file_index import segment_name

logger = logging.getLogger(__name__)
KEY_BYTES = 16
RECORD = np.dtype([("key", "S16"), ("check", "<u4"), ("batch", "<u4"), ("size", "<u4")])
DROP_PAGES_AFTER = 64 << 20  # bytes read from a mapping before its pages are given back
UNKNOWN, GOOD, BAD = 0, 1, 2


class Segment:
    """The complete batches of one writer, mapped read-only.

    Args:
        index: path of the index file.
        dim: width D of a row.
    """

    def __init__(self, index: Path, dim: int) -> None:
        self.index_name, self.path = index.name, index.with_suffix(".rows")
        raw = index.read_bytes()
        self.size = len(raw)
        records = np.frombuffer(raw[: len(raw) // RECORD.itemsize * RECORD.itemsize], RECORD)
        stored = self.path.stat().st_size // (4 * dim) if self.path.exists() else 0
        records = _complete(records[:stored])
        self.keys, self.checks = records["key"].copy(), records["check"].copy()
        self.state = np.full(len(records), UNKNOWN, dtype=np.uint8)
        self.dim = dim
        self._bytes_read = 0
        self._map: mmap.mmap | None = None
        self._rows = np.empty((0, dim), dtype="<f4")

    def __len__(self) -> int:
        return len(self.keys)

    def _open(self) -> np.ndarray:
        if self._map is None and len(self):
            with self.path.open("rb") as file:
                length = len(self) * 4 * self.dim
                self._map = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
            self._rows = np.frombuffer(self._map, dtype="<f4").reshape(len(self), self.dim)
        return self._rows

    def take(self, rows: np.ndarray) -> np.ndarray:
        """(n,) row numbers -> (n, D) float32, a copy."""
        taken = self._open().take(rows, axis=0)
        self._count(taken.nbytes)
        return taken

    def verify(self, rows: np.ndarray) -> int:
        """Check rows whose state is unknown; returns the number of damaged ones."""
        rows = rows[self.state[rows] == UNKNOWN]
        stored, damaged = self._open(), 0
        keys = self.keys.view(f"V{KEY_BYTES}")
        for row in rows.tolist():
            good = checksum(keys[row].tobytes(), stored[row]) == self.checks[row]
            self.state[row] = GOOD if good else BAD
            damaged += not good
            self._count(4 * self.dim)
        return damaged

    def _count(self, read: int) -> None:
        """Give pages back now and then: memory does not grow with the number of rows read."""
        self._bytes_read += read
        is_due = self._bytes_read > DROP_PAGES_AFTER and hasattr(mmap, "MADV_DONTNEED")
        if self._map is not None and is_due:
            self._bytes_read = 0
            self._map.madvise(mmap.MADV_DONTNEED)


def checksum(key: bytes, row: np.ndarray) -> int:
    """CRC-32 of a key and its row."""
    return zlib.crc32(row.data, zlib.crc32(key))


def _complete(records: np.ndarray) -> np.ndarray:
    """Records without the batch that its writer did not finish, if there is one."""
    if not len(records):
        return records
    last = records[-1]
    begin = np.searchsorted(records["batch"], last["batch"])
    return records if len(records) - begin == last["size"] else records[:begin]


class Rows:
    """Segments at one moment, with record numbers through all of them.

    Numbers stay valid whatever is written later; a reader keeps the ``Rows`` that it searched.

    Args:
        segments: oldest first.
        dim: width D of a row.
    """

    def __init__(self, segments: list[Segment], dim: int) -> None:
        self.segments, self.dim = segments, dim
        self._starts = np.cumsum([0, *map(len, segments)])

    def keys(self) -> np.ndarray:
        """(R,) of dtype S16."""
        return np.concatenate([np.empty(0, dtype="S16"), *(s.keys for s in self.segments)])

    def usable(self) -> np.ndarray:
        """Record numbers that were not found damaged."""
        states = np.concatenate([np.empty(0, dtype=np.uint8), *(s.state for s in self.segments)])
        return np.flatnonzero(states != BAD)

    def verify(self, records: np.ndarray) -> int:
        """Check rows against their checksums; returns the number of damaged ones."""
        parts = self._by_segment(records)
        return sum(segment.verify(np.unique(rows)) for segment, rows, _ in parts)

    def gather(self, records: np.ndarray) -> np.ndarray:
        """(n,) record numbers -> (n, D) float32."""
        rows = np.empty((len(records), self.dim), dtype=np.float32)
        for segment, numbers, place in self._by_segment(records):
            rows[place] = segment.take(numbers)
        return rows

    def _by_segment(
        self, records: np.ndarray
    ) -> Iterator[tuple[Segment, np.ndarray, slice | np.ndarray]]:
        """(segment, its row numbers, their places among the records)."""
        if not len(records):
            return
        owner = np.searchsorted(self._starts, records, side="right") - 1
        first = owner[0]
        if (owner == first).all():  # the usual case
            yield self.segments[first], records - self._starts[first], slice(None)
            return
        for number in np.unique(owner):
            place = np.flatnonzero(owner == number)
            yield self.segments[number], records[place] - self._starts[number], place


class Store:
    """All segments of a folder; the oldest row of a key is the one that counts.

    Args:
        folder: made on the first write.
        dim: width D of a row.

    Attributes:
        rows: what ``locate`` gives record numbers of.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder = folder
        self.rows = Rows([], dim)
        self._signature: list[tuple[str, int]] = []
        self._index()
        self.refresh()

    def refresh(self) -> None:
        """Take notice of what was written since."""
        files = sorted(self.folder.glob("*.index"))
        signature = [(path.name, path.stat().st_size) for path in files]
        if signature == self._signature:
            return
        dim = self.rows.dim
        known = {(s.index_name, s.size): s for s in self.rows.segments}
        segments = [known.get(s) or Segment(path, dim) for path, s in zip(files, signature)]
        self._signature, self.rows = signature, Rows(segments, dim)
        self._index()

    def _index(self) -> None:
        keys, usable = self.rows.keys(), self.rows.usable()
        order = np.argsort(keys[usable], kind="stable")
        self._records = usable[order]  # record numbers, sorted by key, older first
        self._keys = keys[self._records]

    def locate(self, keys: np.ndarray) -> np.ndarray:
        """Find rows and check them.

        Args:
            keys: (n,) of dtype S16.

        Returns:
            (n,) record numbers in ``rows``; -1 where no undamaged row is stored.
        """
        while True:
            records = self._find(keys)
            damaged = self.rows.verify(records[records >= 0])
            if not damaged:
                return records
            logger.warning("%d damaged rows in %s are recomputed.", damaged, self.folder)
            self._index()

    def _find(self, keys: np.ndarray) -> np.ndarray:
        if not len(self._keys):
            return np.full(len(keys), -1, dtype=np.int64)
        place = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._records[place], -1)


class Writer:
    """Appends batches to a segment of its own, made with the first batch."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._files: tuple | None = None
        self._batches = 0

    def append(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Write a batch: keys (n,) of dtype S16, rows (n, D).

        Raises:
            RuntimeError: if the folder cannot be written (disk full, no permission).
        """
        rows = np.ascontiguousarray(rows, dtype="<f4")
        records = np.empty(len(keys), dtype=RECORD)
        records["key"], records["batch"], records["size"] = keys, self._batches, len(keys)
        raw = records["key"].copy().view(f"V{KEY_BYTES}")
        records["check"] = [checksum(k.tobytes(), row) for k, row in zip(raw, rows, strict=True)]
        try:
            for file, data in zip(self._open(), (rows, records), strict=True):
                file.write(data.tobytes())
                file.flush()
        except OSError as err:
            raise RuntimeError(
                f"The feature bank {self.store.folder} cannot be written ({err.strerror}). Make "
                "room there, or point VLTUNE_CACHE to another disk."
            ) from err
        self._batches += 1

    def _open(self) -> tuple:
        if self._files is None:
            self.store.folder.mkdir(parents=True, exist_ok=True)
            stem = self.store.folder / segment_name()
            self._files = tuple(stem.with_suffix(s).open("xb") for s in (".rows", ".index"))
        return self._files

    def close(self) -> None:
        """Close the segment."""
        for file in self._files or ():
            file.close()
        self._files = None
