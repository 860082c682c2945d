"""What to do where the system refuses a path: no room, no permission, a file for a folder, ..."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

from .files import CACHE_VARIABLE, FULL, cache_dir

CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_FOLDER = (errno.ENOTDIR, errno.EEXIST)
LITTLE = 50 * 10**6  # bytes: a disk with less is taken for the full one


def explain(err: Exception) -> str:
    """The text of an error; of a refused path, one sentence that names it and one of advice."""
    if not isinstance(err, OSError) or err.errno is None:
        return str(err)
    if not isinstance(err.filename, (str, os.PathLike)):
        return f"No space is left{_full_disks()}." if err.errno in FULL else str(err)
    place = Path(err.filename)
    if err.errno in FULL:
        return (
            f"No space is left for {place}. Make room there, or {_elsewhere(place)}, and run the "
            "same command again: what is finished is kept."
        )
    if err.errno in CLOSED and os.path.isfile(place) and not os.access(place, os.R_OK):
        return (
            f"{place} cannot be read ({err.strerror}). Change its permissions, or copy it to a "
            "place of your own."
        )
    if err.errno in CLOSED:
        return (
            f"{place} cannot be opened or written ({err.strerror}). Change its permissions, or "
            f"{_elsewhere(place)}."
        )
    if err.errno in NO_FOLDER:
        blocking = next((p for p in (place, *place.parents) if os.path.exists(p)), None)
        if blocking is not None and not blocking.is_dir():
            return (
                f"{blocking} is a file, and a folder is needed there. Move it, or "
                f"{_elsewhere(place)}."
            )
    if err.errno == errno.EISDIR:
        return f"{err.filename2 or place} is a folder, and a file is needed there. Move it."
    if err.errno == errno.EFBIG:
        return f"{place} may not grow further (a limit of this machine: see ulimit -f)."
    if err.errno == errno.ELOOP:
        return f"{place} is a link that leads back to itself. Remove it, or mend it."
    if err.errno == errno.ENAMETOOLONG:
        return f"The path {str(place)[:80]}... is too long for this file system. Shorten it."
    if err.errno == errno.ENOENT:
        there = next((p for p in place.parents if os.path.exists(p)), place)
        return f"There is no {place}: {there} is the last folder of that path that is there."
    return str(err)


def _full_disks() -> str:
    """Those of the places that runs write to which have hardly any room, if there are any."""
    places = {tempfile.gettempdir(), os.getcwd(), str(cache_dir())}
    there = sorted(place for place in places if os.path.isdir(place))
    full = [place for place in there if shutil.disk_usage(place).free < LITTLE]
    return f" for {' and '.join(full)}" if full else ""


def _elsewhere(place: Path) -> str:
    """How to choose another place: the caches have a variable, a run's files a flag."""
    if place.is_relative_to(cache_dir()):
        return f"set the environment variable {CACHE_VARIABLE} to another folder"
    return "name another folder (--output-dir for the files of a run)"
