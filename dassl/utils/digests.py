"""The SHA-256 of every file as it was first downloaded: the same file must come again."""

import os
from pathlib import Path

from .downloads import sha256_of
from .files import write_json
from .text_files import read_json


class DigestRecord:
    """`sha256.json` in the folder of downloads: path below it -> digest, bytes, source."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "sha256.json"

    def check(self, file: Path, source: str, *, published: str = "") -> None:
        """Record a file, or compare it with what was recorded or published.

        Args:
            source: where it came from, for messages and the record.
            published: its SHA-256, where the source says it.

        Raises:
            OSError: if the digests differ.
            ValueError: if the record is damaged.
        """
        digest, name = sha256_of(file), file.relative_to(self.folder).as_posix()
        known = self._read()
        if published and digest != published:
            raise OSError(
                f"{file} has SHA-256 {digest}, {source} publishes {published}. Delete the file to "
                "download it again"
            )
        if name not in known:
            if not os.access(self.folder, os.W_OK):  # a cache that others may only read
                return
            entry = {"sha256": digest, "bytes": file.stat().st_size, "source": source}
            write_json({**known, name: entry}, self.path)
        elif known[name]["sha256"] != digest:
            raise OSError(
                f"{file} has SHA-256 {digest}; it had {known[name]['sha256']} when it first came "
                f"from {known[name]['source']}. Delete the file to download it again. If the "
                f"source published a new version, delete its entry in {self.path}"
            )

    def forget(self, file: Path) -> None:
        """Take a file out of the record: it was not what it should have been."""
        known = self._read()
        if known.pop(file.relative_to(self.folder).as_posix(), None):
            write_json(known, self.path)

    def _read(self) -> dict[str, dict]:
        known = read_json(self.path) if self.path.is_file() else {}
        if not isinstance(known, dict) or not all(
            isinstance(entry, dict) and {"sha256", "source"} <= entry.keys()
            for entry in known.values()
        ):
            raise ValueError(f"{self.path} is not a record of downloads. Delete it to start over")
        return known
