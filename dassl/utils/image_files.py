"""Which files are images, and which entries of a folder are left out: one rule for all readers."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger(__name__)
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),  # torchvision's
    *(".gif", ".jfif"),
)
JUNK = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
SILENT = ("thumbs.db", "desktop.ini")  # what file managers write


def is_image(name: str) -> bool:
    """Whether a file name has an image suffix, in upper or lower case; hidden files have none."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def is_hidden(folder: str) -> bool:
    """Whether a folder's name says that nothing in it is meant to be read."""
    return folder.startswith(".") or folder in JUNK


class LeftOut:
    """Counts what a reader of images does not take, and names it once."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.first = ""

    def add(self, path: Path, *, is_folder: bool = False) -> None:
        """Count a file or sub-folder that is not read; hidden files are meant to be unseen."""
        if path.name.startswith(".") or path.name.lower() in SILENT:
            return
        suffix = path.suffix.lower() or "without suffix"
        self.kinds["sub-folders" if is_folder else suffix] += 1
        self.first = self.first or str(path)

    def in_words(self, folder: Path) -> str:
        """What was left out below a folder, or ""."""
        if not self.kinds:
            return ""
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items())[:5])
        return (
            f"Left out below {folder}: {self.kinds.total()} ({kinds}), first {self.first}. Read "
            f"are files *{', *'.join(IMAGE_SUFFIXES)}; convert or move the others to have them "
            "read."
        )

    def warn(self, folder: Path) -> None:
        """Say what was left out below a folder, if anything was."""
        if text := self.in_words(folder):
            logger.warning("%s", text)


def _refuse(err: OSError) -> None:
    raise err


def _refuse_loops(parent: str, folders: Sequence[str]) -> None:
    for path in (os.path.join(parent, name) for name in folders):
        if os.path.islink(path):
            target, here = os.path.realpath(path), os.path.realpath(parent)
            if os.path.commonpath([target, here]) == target:
                raise ValueError(
                    f"{path} is a link to {target}, which holds it: its images would be read "
                    "again and again. Remove the link."
                )


def images_below(folder: Path, left_out: LeftOut) -> list[str]:
    """Paths of all images below a folder: its own, sorted, then those of sub-folders.

    Sub-folders come in the order of their whole paths, as in torchvision's ImageFolder; hidden ones
    are not read, other files are counted.

    Raises:
        OSError: a folder that may not be listed.
        ValueError: a link to a folder that holds it.
    """
    parents = []
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        _refuse_loops(parent, folders)
        for name in filter(JUNK.__contains__, folders):
            left_out.add(Path(parent) / name, is_folder=True)
        folders[:] = [name for name in folders if not is_hidden(name)]
        parents.append((parent, sorted(names)))
    files = []
    for parent, names in sorted(parents):
        files += [os.path.join(parent, name) for name in names if is_image(name)]
        for name in names:
            if not is_image(name):
                left_out.add(Path(parent) / name)
    return files
