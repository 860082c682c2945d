"""The SHA-256 of every file as it was first downloaded: the same file must come again."""

import json
from pathlib import Path

from dassl.utils import write_json
from dassl.utils.downloads import sha256_of


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
        """
        digest, name = sha256_of(file), file.relative_to(self.folder).as_posix()
        known = self._read()
        if published and digest != published:
            raise OSError(
                f"{file} has SHA-256 {digest}, {source} publishes {published}. Delete the file to "
                "download it again"
            )
        if name not in known:
            entry = {"sha256": digest, "bytes": file.stat().st_size, "source": source}
            write_json({**known, name: entry}, self.path)
        elif known[name]["sha256"] != digest:
            raise OSError(
                f"{file} has SHA-256 {digest}; it had {known[name]['sha256']} when it first came "
                f"from {known[name]['source']}. Delete the file to download it again. If the "
                f"source published a new version, delete its entry in {self.path}"
            )

    def _read(self) -> dict[str, dict]:
        if not self.path.is_file():
            return {}
        return json.loads(self.path.read_text(encoding="utf-8"))
