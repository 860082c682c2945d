"""What to do where the system refuses a path: no room, no permission, a file for a folder."""

import errno
import os
from pathlib import Path

from .files import CACHE_VARIABLE, FULL, cache_dir

CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_FOLDER = (errno.ENOTDIR, errno.EEXIST)


def explain(err: Exception) -> str:
    """The text of an error; of a refused path, one sentence that names it and one of advice."""
    path = getattr(err, "filename", None)
    if (
        not isinstance(err, OSError)
        or err.errno is None
        or not isinstance(path, (str, os.PathLike))
    ):
        return str(err)
    place = Path(path)
    if err.errno in FULL:
        return (
            f"No space is left for {place}. Make room there, or {_elsewhere(place)}, and run the "
            "same command again: what is finished is kept."
        )
    if err.errno in CLOSED:
        return (
            f"{place} cannot be opened or written ({err.strerror}). Change its permissions, or "
            f"{_elsewhere(place)}."
        )
    if err.errno in NO_FOLDER:
        blocking = next((p for p in (place, *place.parents) if p.is_file()), None)
        if blocking is not None:
            return (
                f"{blocking} is a file, and a folder is needed there. Move it, or "
                f"{_elsewhere(place)}."
            )
    return str(err)


def _elsewhere(place: Path) -> str:
    """How to choose another place: the caches have a variable, a run's files a flag."""
    if place.is_relative_to(cache_dir()):
        return f"set the environment variable {CACHE_VARIABLE} to another folder"
    return "name another folder (--output-dir for the files of a run)"
