"""Writing and reading files safely: atomic replacement, JSON, the cache folder."""

import itertools
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CACHE_VARIABLE = "VLTUNE_CACHE"
SECONDS_OF_LEFTOVERS = 86_400.0  # since a temporary file was written


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it onto `path` on success.

    Readers see the old file or the whole new one, never a part. The folder is made if missing. If
    the block raises, the temporary file is removed and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as err:
        if err.errno is not None and err.filename in (None, name):  # a full disk names no file
            err.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed writers in a folder and those directly below it.

    Only names that ``atomic_write`` gives, and files that nobody wrote to for a day.
    """
    for pattern in (".*.????????.tmp", "*/.*.????????.tmp"):
        for path in folder.glob(pattern):
            with suppress(OSError):  # gone meanwhile, or another user's
                if time.time() - path.stat().st_mtime > SECONDS_OF_LEFTOVERS:
                    path.unlink()


def cache_dir() -> Path:
    """Return the folder for banks, renders and listings: $VLTUNE_CACHE or ~/.cache/vltune."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "vltune")


def mkdir_if_missing(dirname: str | os.PathLike) -> None:
    """Make a folder and its parents; an existing one is fine."""
    Path(dirname).mkdir(parents=True, exist_ok=True)


def check_isfile(fpath: str | os.PathLike) -> bool:
    """Return whether a file exists; warn if not."""
    exists = os.path.isfile(fpath)
    if not exists:
        warnings.warn(f'No file found at "{fpath}"', stacklevel=2)
    return exists


def write_json(obj: Any, fpath: str | os.PathLike) -> None:
    """Write `obj` as JSON (indent 4), atomically; the folder is made if missing."""
    text = json.dumps(obj, indent=4, separators=(",", ": "))
    with atomic_write(fpath) as temporary:
        temporary.write_text(text, encoding="utf-8")


def few_folders(
    root: str | os.PathLike, *, deepest: int = 6, most: int = 200
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """(folder, names of its folders, of its files) as ``os.walk``, sorted, of a few folders only.

    A search for what a message may suggest: at most ``most`` folders, ``deepest`` levels below
    ``root``. A caller may remove from the names of the folders those not to be entered.
    """
    for name, folders, files in itertools.islice(os.walk(str(root)), most):
        folder = Path(name)
        is_deepest = len(folder.relative_to(root).parts) >= deepest
        folders[:] = [] if is_deepest else sorted(folders)
        yield folder, folders, sorted(files)


def listdir_nohidden(path: str | os.PathLike, sort: bool = False) -> list[str]:
    """Return the names in a folder that do not begin with a dot.

    They come sorted for either value of `sort`: the order of the file system is arbitrary, and
    nothing that is built from a listing should depend on it.
    """
    del sort  # kept for the original's signature
    return sorted(name for name in os.listdir(path) if not name.startswith("."))
