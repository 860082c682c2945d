"""One process at a time per folder."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)
SECONDS_BETWEEN = 0.2  # between two looks at a folder that is in use


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process writes to this folder; it is created if missing.

    The lock only saves double work: on a file system without locks, two processes write the same
    files. It ends with its process.
    """
    is_current = False
    while not is_current:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a+b") as file:
            is_locked = _lock(file, folder)
            # a run that failed at once has removed the file while this process waited for it
            if is_current := not is_locked or _is_there(file, folder / ".lock"):
                try:
                    yield
                finally:
                    if is_locked:
                        _unlock(file)


def _is_there(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one that a path names now."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def is_in_use(folder: Path) -> bool:
    """Whether a process writes to this folder now, as far as the file system tells."""
    with locked_if_free(folder) as is_free:
        return not is_free


@contextmanager
def locked_if_free(folder: Path) -> Iterator[bool]:
    """Keep writers out, if none is at work; yields whether none is, as far as one can tell.

    A folder in which nobody has taken a lock yet is not changed.
    """
    try:
        file = (folder / ".lock").open("r+b")
    except OSError:
        yield True
        return
    with file:
        try:
            try_lock(file.fileno())
        except BlockingIOError:
            yield False
            return
        except OSError:  # no locks here
            yield True
            return
        try:
            yield True
        finally:
            _unlock(file)


def _lock(file: BinaryIO, folder: Path) -> bool:
    try:
        try_lock(file.fileno())
        return True
    except BlockingIOError:
        logger.info("Waiting for another process that writes to %s.", folder)
    except OSError as err:
        _say_unlocked(folder, err.strerror or str(err))
        return False
    while True:
        try:
            try_lock(file.fileno())
            return True
        except BlockingIOError:
            time.sleep(SECONDS_BETWEEN)
        except OSError:
            return False


@cache
def _say_unlocked(folder: Path, reason: str) -> None:
    logger.warning(
        "The file system of %s has no locks (%s): two commands that write there at once would do "
        "the same work twice. Start one at a time.",
        *(folder, reason),
    )


def try_lock(handle: int) -> None:
    """Lock an open file, or raise BlockingIOError; another OSError where there are no locks."""
    if sys.platform != "win32":
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        try:
            os.lseek(handle, 0, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError as err:
            raise BlockingIOError(*err.args) from err


def _unlock(file: BinaryIO) -> None:
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_UN)
    else:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
