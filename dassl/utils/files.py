"""Writing and reading files safely: atomic replacement, JSON, the cache folder."""

import errno
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .locks import try_lock

CACHE_VARIABLE = "VLTUNE_CACHE"
FULL = (errno.ENOSPC, errno.EDQUOT)
SECONDS_OF_LEFTOVERS = 60.0  # since a temporary file was written that no process holds
SECONDS_WITHOUT_LOCKS = 86_400.0  # the same where the file system does not tell who holds one
# what a file is that holds no weights, the end of a sentence, or ""; who knows formats adds to it
FORMATS: list[Callable[[Path], str]] = []
TORCH_WRITERS = ("inline_container", "PytorchStreamWriter", "iostream error")  # in their errors


@contextmanager
def errors_of_writing(path: str | os.PathLike, temporary: str = "") -> Iterator[None]:
    """Let an error of writing that names no file (a full disk) name ``path``; nor the temporary.

    Raises:
        OSError: also where torch could not write.
    """
    try:
        yield
    except OSError as err:
        if err.errno is not None and err.filename in (None, temporary):
            err.filename = str(path)
        raise
    except RuntimeError as err:
        if not any(name in str(err) for name in TORCH_WRITERS):
            raise
        # torch does not say why a write failed; a full disk is what ends one half-way
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from err


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it onto `path` on success.

    Readers see the old file or the whole new one, never a part. The folder is made if missing. If
    the block raises, the temporary file is removed and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = _held_temporary(path)
    temporary = Path(name)
    try:
        with errors_of_writing(path, name):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _held_temporary(path: Path) -> tuple[int | None, str]:
    """A new file beside `path`, and the handle by which this process holds it (None: unheld).

    What is not held any more has been left by a process that was killed.
    """
    while True:
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        except OSError as err:
            err.filename = str(path)  # nobody knows the temporary file
            raise
        if sys.platform == "win32":  # there, an open file cannot be renamed
            os.close(handle)
            return None, name
        with suppress(OSError):
            try_lock(handle)
        if os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)  # taken for a leftover before it was held


def undo_of(folder: Path) -> Callable[[], None]:
    """A function that removes the files and folders that came in and around ``folder`` since."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    before = set() if made else {*folder.iterdir()}

    def undo() -> None:
        with suppress(OSError):  # in use, or another run has come there
            for path in {*folder.iterdir()} - before:
                if not path.is_dir():
                    path.unlink()
            for path in made:
                path.rmdir()

    return undo


def take_space(path: Path) -> None:
    """Have a file's whole length on the disk before it is written through memory.

    Without that a disk that is full meanwhile ends the process with SIGBUS and no word.

    Raises:
        OSError: the disk is full.
    """
    with path.open("rb+") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except AttributeError:  # no such call on this system
            return
        except OSError as err:
            if err.errno in FULL:  # others: not on this file system
                raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_leftovers(folder: Path, *, is_own: bool = False) -> None:
    """Remove temporary files of killed writers in a folder and down to three levels below it.

    Only names that ``atomic_write`` gives, and files that no process holds.

    Args:
        is_own: nobody else writes here; otherwise files of the last minute stay, for locks of other
            hosts may not be seen.
    """
    for depth in range(4):
        for path in folder.glob("*/" * depth + ".*.????????.tmp"):
            with suppress(OSError):  # gone meanwhile, or another user's
                age = time.time() - path.stat().st_mtime
                if (is_own or age > SECONDS_OF_LEFTOVERS) and _is_abandoned(path, age):
                    path.unlink()


def _is_abandoned(path: Path, age: float) -> bool:
    if sys.platform == "win32":
        return age > SECONDS_WITHOUT_LOCKS
    with path.open("r+b") as file:
        try:
            try_lock(file.fileno())
        except BlockingIOError:
            return False
        except OSError:  # no locks here
            return age > SECONDS_WITHOUT_LOCKS
    return True


def cache_dir() -> Path:
    """Return the folder for banks, renders and listings: $VLTUNE_CACHE or ~/.cache/vltune.

    Raises:
        ValueError: there is neither, as for an unknown user in a container.
    """
    try:
        return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "vltune")
    except RuntimeError as err:
        raise ValueError(
            "This user has no home folder, in which caches are kept: set the environment variable "
            f"{CACHE_VARIABLE} to a folder."
        ) from err


def mkdir_if_missing(dirname: str | os.PathLike) -> None:
    """Make a folder and its parents; an existing one is fine."""
    Path(dirname).mkdir(parents=True, exist_ok=True)


def check_isfile(fpath: str | os.PathLike) -> bool:
    """Return whether a file exists; warn if not."""
    exists = os.path.isfile(fpath)
    if not exists:
        warnings.warn(f'No file found at "{fpath}"', stacklevel=2)
    return exists


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text in UTF-8, atomically; what no UTF-8 can hold is written out (``\\udce9``)."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(obj: Any, fpath: str | os.PathLike) -> None:
    """Write `obj` as JSON (indent 4), atomically; the folder is made if missing."""
    write_text(fpath, json.dumps(obj, indent=4, separators=(",", ": ")))


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


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy where links are not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)
