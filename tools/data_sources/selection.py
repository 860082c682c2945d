"""TerraIncognita's locations and classes and DomainNet's duplicates, as DomainBed chooses them.

Gulrajani & Lopez-Paz, ICLR 2021 (facebookresearch/DomainBed, domainbed/scripts/download.py).
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

LOCATIONS = ("38", "43", "46", "100")
CATEGORIES = (
    "bird",
    "bobcat",
    "cat",
    "coyote",
    "dog",
    "empty",
    "opossum",
    "rabbit",
    "raccoon",
    "squirrel",
)


def camera_places(annotation_files: Iterable[Path]) -> dict[str, set[str]]:
    """File name of an image -> the places ``location_<id>/<category>`` where it belongs.

    Args:
        annotation_files: COCO Camera Traps format; what several files say is joined.

    Raises:
        ValueError: if a file is not in that format.
    """
    names: dict[int, str] = {}
    images: dict[str, tuple[str, str]] = {}
    categories_of: dict[str, set[int]] = {}
    for path in annotation_files:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names |= {one["id"]: one["name"] for one in content["categories"]}
            images |= {
                one["id"]: (one["file_name"], str(one["location"]))
                for one in content["images"]
                if str(one["location"]) in LOCATIONS
            }
            for one in content["annotations"]:
                categories_of.setdefault(one["image_id"], set()).add(one["category_id"])
        except (KeyError, TypeError, ValueError) as err:
            raise ValueError(f"{path} is not a file of camera trap annotations ({err!r})") from err
    places: dict[str, set[str]] = {}
    for key, (file, location) in images.items():
        found = {names.get(category) for category in categories_of.get(key, ())}
        chosen = {f"location_{location}/{name}" for name in found if name in CATEGORIES}
        if chosen:
            places.setdefault(Path(file).name, set()).update(chosen)
    return places


def sort_camera_images(images: Path, places: dict[str, set[str]], target: Path) -> int:
    """Move images to their places below `target`; one with two categories is in both.

    Returns:
        How many images of `places` are not below `images`.
    """
    missing = 0
    for name, folders in sorted(places.items()):
        source = images / name
        if not source.is_file():
            missing += 1
            continue
        *copies, last = sorted(folders)
        for folder in copies:
            (target / folder).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / folder / name)
        (target / last).mkdir(parents=True, exist_ok=True)
        source.replace(target / last / name)
    return missing


def remove_duplicates(folder: Path, listing: Path) -> int:
    """Remove the images that `listing` names, a path below `folder` a line.

    Returns:
        How many were there.

    Raises:
        ValueError: if a line leaves the folder.
    """
    removed = 0
    for line in listing.read_text(encoding="utf-8").splitlines():
        path = folder / line.strip()
        if ".." in path.parts or not path.is_relative_to(folder):
            raise ValueError(f"{listing} names {line}, which is not in the dataset's folder")
        if path.is_file():
            path.unlink()
            removed += 1
    return removed
