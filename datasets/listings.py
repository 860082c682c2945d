"""Listing of a folder with very many images, kept as JSON beside a digest of the folder's state.

ImageNet has 1.28 M files: reading their names from disk takes minutes on a network drive. The
state is the name and modification time of every class folder, so a file added or removed is seen.
"""

import hashlib
import json
import logging
from pathlib import Path

from dassl.utils import cache_dir, read_json, write_text

from .files import class_folders, images_by_class

logger = logging.getLogger(__name__)


def folder_state(folder: Path) -> str:
    """SHA-256 (hex) of the class folders' names and modification times."""
    digest = hashlib.sha256()
    for name in class_folders(folder):
        digest.update(
            f"{name}\t{(folder / name).stat().st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()


def listing_file(folder: Path) -> Path:
    """Where the listing of a folder is kept."""
    name = hashlib.sha256(str(folder).encode(errors="surrogateescape")).hexdigest()[:16]
    return cache_dir() / "listings" / f"{folder.name}-{name}.json"


def list_images(folder: Path, *, dataset: str, section: str) -> dict[str, list[str]]:
    """Class folder -> POSIX paths of its images relative to ``folder``; both sorted.

    The kept listing is used only while the folder's state is the one it was made from.
    """
    kept_file = listing_file(folder)
    state = folder_state(folder)
    kept = _read(kept_file, folder, state)
    if kept is not None:
        return kept
    classes = images_by_class(folder, dataset=dataset, section=section)
    content = {"folder": str(folder), "state": state, "images": classes}
    try:
        write_text(kept_file, json.dumps(content))
    except OSError as err:
        logger.warning("The listing of %s could not be kept as %s (%s).", folder, kept_file, err)
    return classes


def _read(path: Path, folder: Path, state: str) -> dict[str, list[str]] | None:
    if not path.exists():
        return None
    try:
        content = read_json(path)
        if content["state"] != state or content["folder"] != str(folder):
            return None
        images = content["images"]
        if not all(isinstance(name, str) for names in images.values() for name in names):
            raise TypeError("a name is not text")
        return images
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        logger.warning("The kept listing %s is damaged (%s): made again.", path, err)
        return None
