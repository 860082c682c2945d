"""Cached things: their sizes, when they were last used, and their removal."""

from __future__ import annotations

import contextlib
import glob
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dassl.utils.locks import locked_if_free
from tools.caches.kinds import ABOUT, KINDS, Kind


@dataclass(frozen=True)
class Entry:
    """A file or folder that is used, and removed, as a whole.

    Attributes:
        files: all that belong to it.
        size: bytes.
        used: when it was last read or written, in seconds since the epoch; where the file system
            notes no reading (mount option noatime), when it was written.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    size: int
    used: float

    @property
    def kind(self) -> Kind:
        """What it is one of."""
        return KINDS[self.name]

    @property
    def label(self) -> str:
        """What the list says of it."""
        return self.kind.describe(self.path)

    def remove(self) -> bool:
        """Remove it, unless a process writes to its folder; returns whether it is gone.

        Raises:
            OSError: it cannot be removed.
        """
        folder = self.path if self.path.is_dir() else self.path.parent
        with locked_if_free(folder) as is_free:
            if is_free and self.path.is_dir():
                shutil.rmtree(self.path)
                with contextlib.suppress(OSError):  # it holds more
                    self.path.parent.rmdir()
            elif is_free:
                for file in self.files:
                    file.unlink(missing_ok=True)
        return is_free

    @property
    def is_in_use(self) -> bool:
        """Whether a process writes to its folder."""
        with locked_if_free(self.path if self.path.is_dir() else self.path.parent) as is_free:
            return not is_free


def entries_in(cache: Path, names: Iterable[str]) -> list[Entry]:
    """What a cache folder holds of these kinds, least recently used first."""
    found = []
    for name in names:
        for path in sorted(cache.glob(KINDS[name].pattern)):
            if not path.name.startswith("."):  # half written
                found.append(_entry(name, path))
    return sorted(found, key=lambda entry: entry.used)


def _entry(name: str, path: Path) -> Entry:
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
    else:  # with what lies beside it under the same name: a database's journal, a description
        files = [file for file in path.parent.glob(f"{glob.escape(path.stem)}.*") if file.is_file()]
    stats = {}
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # a temporary one, renamed meanwhile
            stats[file] = file.stat()
    data = [stat for file, stat in stats.items() if file.name not in (ABOUT, ".lock")]
    used = max((max(stat.st_atime, stat.st_mtime) for stat in data), default=time.time())
    return Entry(name, path, tuple(stats), sum(s.st_size for s in stats.values()), used)


def prune(
    entries: Sequence[Entry],
    remove: Callable[[Entry], bool],
    *,
    max_size: int | None,
    last_use: float | None,
) -> int:
    """Remove the least recently used entries; returns the bytes that are left.

    Args:
        entries: least recently used first.
        remove: returns whether an entry could be removed.
        max_size: bytes that may be left.
        last_use: what was used before this time goes, whatever is left.
    """
    left = sum(entry.size for entry in entries)
    for entry in entries:
        is_old = last_use is not None and entry.used < last_use
        is_too_much = max_size is not None and left > max_size
        if entry.kind.is_pruned and (is_old or is_too_much) and remove(entry):
            left -= entry.size
    return left
