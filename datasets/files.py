"""What a dataset needs on disk, how a missing piece is reported, and sorted folder listings."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dassl.utils.image_files import IMAGE_SUFFIXES, LeftOut, is_image

from .near_miss import holds_images, visible, way_to_classes, way_to_place


@dataclass(frozen=True)
class Piece:
    """One file or folder of a dataset.

    Attributes:
        what: what it is, in words.
        places: where it is looked for, in this order.
        role: "needed", "split" (the published split file: optional, rebuilt when absent),
            "rebuild" (needed only when the split file is absent) or "optional".
    """

    what: str
    places: tuple[Path, ...]
    role: str = "needed"

    def find(self) -> Path | None:
        """The first place that exists, or None."""
        return next((place for place in self.places if place.exists()), None)

    def require(self, dataset: str, section: str) -> Path:
        """The place that exists.

        Raises:
            FileNotFoundError: names every path that was looked for and how to get the piece.
        """
        found = self.find()
        if found is None:
            raise FileNotFoundError(f"{self.missing} {hint(dataset, section)}")
        return found

    @property
    def missing(self) -> str:
        """That the piece is not there, where it was looked for, and what is there instead."""
        looked = " and ".join(str(place) for place in self.places)
        ways = [way for place in self.places if (way := way_to_place(place))]
        return " ".join([f"No {self.what}. Looked for {looked}.", *ways[:1]])


def hint(dataset: str, section: str) -> str:
    """The way out that every message about missing data ends with."""
    return f"Run python tools/check_data.py {dataset}, or see DATASETS.md, section {section}."


def data_root(root: str) -> Path:
    """DATASET.ROOT as an absolute path.

    Raises:
        FileNotFoundError: if it does not exist.
    """
    path = Path(root or "data").expanduser().absolute()
    if not path.is_dir():
        raise FileNotFoundError(
            f'DATASET.ROOT is "{root}", but there is no folder {path}. Pass --root PATH (the '
            "scripts read the environment variable DATA). Run python tools/check_data.py, or see "
            "DATASETS.md."
        )
    return path


def class_folders(folder: Path, *, ignored: Iterable[str] = ()) -> list[str]:
    """Names of the visible sub-folders, sorted by code point."""
    ignored = set(ignored)
    return [name for name in visible(folder) if name not in ignored]


def image_names(folder: Path, left_out: LeftOut) -> list[str]:
    """Names of the images directly inside a folder, sorted by code point; the rest is counted."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_image(entry.name) and not entry.is_dir():
                names.append(entry.name)
            else:
                left_out.add(folder / entry.name, is_folder=entry.is_dir())
    return sorted(names)


def images_by_class(
    folder: Path, *, dataset: str, section: str, ignored: Iterable[str] = ()
) -> dict[str, list[str]]:
    """Class folder -> POSIX paths of its images relative to ``folder``; both sorted.

    What else the class folders hold is left out, and named in a warning.

    Raises:
        FileNotFoundError: if there are no class folders, or one holds no image.
    """
    left_out = LeftOut()
    names = class_folders(folder, ignored=ignored)
    classes = {name: image_names(folder / name, left_out) for name in names}
    empty = [name for name, images in classes.items() if not images]
    if not classes or len(empty) == len(classes):
        way = way_to_classes(folder)
        if way or not classes:
            raise FileNotFoundError(
                " ".join(filter(None, [f"No class folders with images under {folder}.", way]))
                + f" {hint(dataset, section)}"
            )
    if empty:
        deeper = [n for n in empty if any(map(holds_images, _sub_folders(folder / n)))]
        raise FileNotFoundError(
            f"No images in {folder / empty[0]}"
            + (f" and {len(empty) - 1} more class folders" if len(empty) > 1 else "")
            + f". Looked for *{', *'.join(IMAGE_SUFFIXES)}. "
            + (f"Sub-folders of {folder / deeper[0]} hold images: move them up. " if deeper else "")
            + hint(dataset, section)
        )
    left_out.warn(folder)
    return {name: [f"{name}/{image}" for image in images] for name, images in classes.items()}


def _sub_folders(folder: Path) -> list[Path]:
    return [folder / name for name in visible(folder)]


def require_images(folder: Path, paths: Sequence[str], *, dataset: str, section: str) -> None:
    """Check that images exist, by one listing per folder (fast for many thousands).

    Args:
        paths: POSIX paths relative to ``folder``.

    Raises:
        FileNotFoundError: names the first missing image and counts the others.
    """
    missing = missing_images(folder, paths)
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} images that the split names are missing, first "
            f"{folder / missing[0]}. {hint(dataset, section)}"
        )


def missing_images(folder: Path, paths: Sequence[str]) -> list[str]:
    """The paths (relative to ``folder``) without a file, in the given order."""
    listings: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent not in listings:
            place = folder / parent
            listings[parent] = set(os.listdir(place)) if place.is_dir() else set()
        # a file system that ignores case finds what the listing spells differently
        if name not in listings[parent] and not (folder / path).is_file():
            missing.append(path)
    return missing
