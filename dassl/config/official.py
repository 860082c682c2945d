"""Config files by the names that the official repositories gave them (`configs/official.yaml`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath

from .files import CONFIGS
from .yaml_files import read_yaml

TABLE = CONFIGS / "official.yaml"


@dataclass(frozen=True)
class Official:
    """Our equivalent of an official config file.

    Attributes:
        name: for folders: our recipe's, or the official one where no file of ours says the same.
        files: config files in merge order.
        opts: KEY, VALUE, ... after them.
    """

    name: str
    files: tuple[Path, ...]
    opts: tuple[str, ...] = ()


def find_official(given: str | Path) -> Official | None:
    """Our files for an official path `.../configs/trainers/<Trainer>/<name>.yaml`, or None."""
    parts = PurePath(given).with_suffix("").parts
    if "configs" not in parts:
        return None
    start = len(parts) - parts[::-1].index("configs")
    entry = _table().get("/".join(parts[start:]))
    if entry is None:
        return None
    names = entry["files"] if isinstance(entry["files"], list) else [entry["files"]]
    files = tuple(CONFIGS / "trainers" / f"{name}.yaml" for name in names)
    opts = tuple(str(word) for pair in entry.get("opts", {}).items() for word in pair)
    return Official(parts[-1] if opts else files[0].stem, files, opts)


@cache
def _table() -> dict[str, dict]:
    return read_yaml(TABLE) if TABLE.is_file() else {}
