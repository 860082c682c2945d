"""What a dataset needs on disk, how a missing piece is reported, and sorted folder listings."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


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
            looked = " and ".join(str(place) for place in self.places)
            raise FileNotFoundError(
                f"No {self.what}. Looked for {looked}. {hint(dataset, section)}"
            )
        return found


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


def is_image(name: str) -> bool:
    """Whether a file name has an image suffix, in upper or lower case."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def class_folders(folder: Path, *, ignored: Iterable[str] = ()) -> list[str]:
    """Names of the visible sub-folders, sorted by code point."""
    ignored = set(ignored)
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    return sorted(name for name in names if name not in ignored)


def image_names(folder: Path) -> list[str]:
    """Names of the images directly inside a folder, sorted by code point."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if is_image(e.name))


def images_by_class(
    folder: Path, *, dataset: str, section: str, ignored: Iterable[str] = ()
) -> dict[str, list[str]]:
    """Class folder -> POSIX paths of its images relative to ``folder``; both sorted.

    Raises:
        FileNotFoundError: if there are no class folders, or one holds no image.
    """
    classes = {name: image_names(folder / name) for name in class_folders(folder, ignored=ignored)}
    if not classes:
        raise FileNotFoundError(f"No class folders under {folder}. {hint(dataset, section)}")
    empty = [name for name, images in classes.items() if not images]
    if empty:
        raise FileNotFoundError(
            f"No images in {folder / empty[0]}"
            + (f" and {len(empty) - 1} more class folders" if len(empty) > 1 else "")
            + f". Looked for *{', *'.join(IMAGE_SUFFIXES)}. {hint(dataset, section)}"
        )
    return {name: [f"{name}/{image}" for image in images] for name, images in classes.items()}


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
