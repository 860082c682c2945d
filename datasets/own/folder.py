"""Class folders as people have them.

``<split>/<class>/*``, ``<class>/*`` or ``<domain>/<class>/*``; images of deeper folders belong to
the class folder that they lie in. Folders that only wrap one other are stepped into.
"""

from __future__ import annotations

import os
from pathlib import Path

from dassl.utils.image_files import IMAGE_SUFFIXES, LeftOut, images_below, is_image

from ..near_miss import SPLIT_OF, holds_images, like_splits, visible
from .listing import Entry, Listing, listed

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")
CLASSES_EXPECTED = "expected <class>/*.jpg, <split>/<class>/*.jpg or <domain>/<class>/*.jpg"


def list_folder(root: Path) -> Listing:
    """The images below a folder by class, split and domain; nothing is opened or written."""
    listing = Listing(root, f"folder:{root}")
    try:
        _read(listing)
    except PermissionError as err:
        listing.problems.append(
            f"{err.filename} cannot be listed ({err.strerror}); expected a folder that you may "
            f"read. To allow it: chmod -R u+rX {root}"
        )
    if listing.empty:
        listing.notes.append(
            f"no images in {listed(listing.empty)}: left out. Add images, or remove the folders"
        )
    if not listing.problems and not listing.entries:
        listing.problems.append(
            f"{root} holds no images (*{', *'.join(IMAGE_SUFFIXES)}) in class folders; "
            f"{CLASSES_EXPECTED}."
        )
    listing.entries.sort()
    return listing


def _read(listing: Listing) -> None:
    folder = _unwrapped(listing)
    names = visible(folder)
    loose = _loose_images(folder)
    if packed := [] if names else _archives(folder):
        listing.problems.append(
            f"{folder} holds {listed(packed)} and no class folders; {CLASSES_EXPECTED}. Unpack it "
            "first"
        )
        return
    if not names:
        listing.problems.append(
            f"{folder} holds {loose} images and no class folders; {CLASSES_EXPECTED}. Sort them "
            f"into a folder per class, or name the folder above: folder:{folder.parent}"
        )
        return
    if loose:
        listing.notes.append(f"{loose} images lie in {folder} itself, in no class: not read")
    left_out = LeftOut()
    splits = _split_folders(listing, folder, names)
    if splits:
        for split, name in splits.items():
            _add_classes(listing, folder / name, left_out, split=split)
        listing.said.append(f"read as {', '.join(splits)} folders of classes")
    elif not listing.problems and (like := like_splits(folder, names)):
        listing.problems.append(like)
    elif not listing.problems and _are_domains(folder, names):
        for name in names:
            _add_classes(listing, folder / name, left_out, domain=name)
        listing.said.append(f"read as class folders in {len(names)} domains ({listed(names)})")
    elif not listing.problems:
        deeper = _add_classes(listing, folder, left_out)
        listing.said.append("read as a folder per class")
        if deeper:
            listing.said.append(
                f"images of sub-folders belong to the class above ({listed(deeper)}; to have it "
                "otherwise: csv:FILE)"
            )
    listing.notes += [text for text in [left_out.in_words(folder)] if text]


def _unwrapped(listing: Listing) -> Path:
    """The folder that holds classes, splits or domains: wrappers of one folder are stepped into."""
    folder = listing.root
    while not _loose_images(folder):
        names = visible(folder)
        is_wrapper = len(names) == 1 and names[0].lower() not in SPLIT_OF
        if not is_wrapper or holds_images(folder / names[0]) or not visible(folder / names[0]):
            break
        folder = folder / names[0]
    if folder != listing.root:
        listing.said.append(f"stepped into {folder.relative_to(listing.root).as_posix()}")
    return folder


def _archives(folder: Path) -> list[str]:
    return [name for name in sorted(os.listdir(folder)) if name.lower().endswith(ARCHIVES)]


def _loose_images(folder: Path) -> int:
    return sum(is_image(name) for name in os.listdir(folder))


def _split_folders(listing: Listing, folder: Path, names: list[str]) -> dict[str, str]:
    """train, val, test -> the folder of that split; empty for other trees and for near misses."""
    found: dict[str, list[str]] = {}
    for name in names:
        if split := SPLIT_OF.get(name.lower()):
            found.setdefault(split, []).append(name)
    others = [name for name in names if name.lower() not in SPLIT_OF]
    if not found or (others and len(found) == 1):  # a class may be called "train"
        return {}
    if others:
        listing.problems.append(
            f"{folder} holds {listed(sum(found.values(), []))} beside {listed(others)}; expected "
            "either folders of splits or folders of classes. Move the others elsewhere, or name "
            f"every image: --dataset csv:FILE"
        )
    for spelt in found.values():
        if len(spelt) > 1:
            listing.problems.append(
                f"{folder} holds {' and '.join(spelt)}; expected one of them. Merge or rename them."
            )
    if "train" not in found:
        one = sum(found.values(), [])[0]
        listing.problems.append(
            f"{folder} holds {', '.join(names)} and no train; expected images to train on. To have "
            f"those of {one} split: --dataset folder:{folder / one}"
        )
    if listing.problems:
        return {}
    return {split: found[split][0] for split in ("train", "val", "test") if split in found}


def _are_domains(folder: Path, names: list[str]) -> bool:
    """Whether folders without images of their own hold the same (at least two) class folders.

    Numbers are years or parts of a class, no classes.
    """
    if len(names) < 2 or any(holds_images(folder / name) for name in names):
        return False
    shared = set.intersection(*(set(visible(folder / name)) for name in names))
    return len(shared) > 1 and not all(name.isdecimal() for name in shared)


def _add_classes(
    listing: Listing, folder: Path, left_out: LeftOut, *, split: str = "", domain: str = ""
) -> list[str]:
    """Take the class folders of a folder; returns those whose images lie deeper."""
    deeper = []
    loose = _loose_images(folder) if split or domain else 0
    if loose:
        listing.notes.append(f"{loose} images lie in {folder} itself, in no class: not read")
    for name in visible(folder):
        files = images_below(folder / name, left_out)
        if not files:
            listing.empty.append((folder / name).relative_to(listing.root).as_posix())
        if any(Path(file).parent != folder / name for file in files):
            deeper.append(name)
        listing.entries += [
            Entry(Path(file).relative_to(listing.root).as_posix(), name, split, domain)
            for file in files
        ]
    return deeper
