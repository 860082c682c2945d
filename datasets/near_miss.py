"""Folders that are nearly what a reader expects: what they look like, and the command that helps.

Nothing is guessed: a tree that could be read in two ways is named, with both.
"""

import logging
import os
import re
import shlex
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from dassl.utils.image_files import JUNK, is_image

logger = logging.getLogger(__name__)
SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}
OTHER_WORDS = {"dev": "val", "eval": "test", "evaluation": "test", "holdout": "test"}
LIKE_A_SPLIT = re.compile(  # 1. Train, train_set, test2017, images-val
    rf"[\W\d_]*(?:(?:set|data|images|imgs)[\W_]+)?({'|'.join((*SPLIT_OF, *OTHER_WORDS))})"
    r"[\W_]*(?:set|data|images|imgs)?[\W\d_]*",
    re.IGNORECASE,
)


def visible(folder: Path) -> list[str]:
    """Names of the sub-folders that may mean something, sorted by code point.

    Folders that archives and file servers leave are named once, and never read.
    """
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    for name in filter(JUNK.__contains__, names):
        _name_once(folder / name)
    return [name for name in names if name not in JUNK]


@cache
def _name_once(folder: Path) -> None:
    where = shlex.quote(str(folder))
    logger.warning("%s is left out; to remove it: rm -r %s", folder.name, where)


def check_split_folders(folder: Path, names: Iterable[str]) -> bool:
    """Whether a folder is divided into ``train``, ``test`` and, maybe, ``val``.

    Args:
        folder: where the names lie.
        names: of its sub-folders.

    Raises:
        ValueError: for a tree that is nearly divided so; gives the command that makes it so.
    """
    names = list(names)
    found: dict[str, list[str]] = {}
    for name in names:
        if split := SPLIT_OF.get(name.lower()):
            found.setdefault(split, []).append(name)
    is_divided = len(found) > 1 or (found and len(sum(found.values(), [])) == len(names))
    if not is_divided:
        return False
    for spelt in found.values():
        if len(spelt) > 1:
            raise ValueError(f"{folder} holds {' and '.join(spelt)}. Keep one of them.")
    renames = [(own[0], split) for split, own in sorted(found.items()) if own[0] != split]
    problem = "" if not renames else f"spelt {', '.join(own for own, _ in renames)}"
    if "test" not in found and "val" in found:
        renames = [pair for pair in renames if pair[1] != "val"] + [(found["val"][0], "test")]
        problem = "without test (its val can be the test list; a fifth of train becomes val)"
    if "train" not in found or len(found) < 2:
        only = next(iter(found.values()))[0]
        raise ValueError(
            f"{folder} holds {', '.join(names)}, not train and test. To have the images in {only} "
            f"split: --root {shlex.quote(str(folder / only))}"
        )
    if renames:
        commands = " && ".join(_move(folder / own, folder / split) for own, split in renames)
        raise ValueError(f"{folder} is divided into {', '.join(names)}: {problem}. Run: {commands}")
    return True


def like_splits(folder: Path, names: Iterable[str]) -> str:
    """What is wrong with folders that seem to be splits under other names; "" if they do not."""
    found = {name: match[1].lower() for name in names if (match := LIKE_A_SPLIT.fullmatch(name))}
    splits = {name: {**SPLIT_OF, **OTHER_WORDS}[word] for name, word in found.items()}
    if len(set(splits.values())) < 2:
        return ""
    moves = [(folder / name, folder / split) for name, split in splits.items() if name != split]
    is_plain = len(set(splits.values())) == len(splits)
    way = f" Run: {' && '.join(_move(*move) for move in moves)}" if is_plain else ""
    return (
        f"{folder} holds {', '.join(splits)}, which seem to be splits; expected folders called "
        f"train, val and test.{way}"
    )


def _move(source: Path, target: Path) -> str:
    return f"mv {shlex.quote(str(source))} {shlex.quote(str(target))}"


def way_to_classes(folder: Path) -> str:
    """What a folder without class folders (with images in them) looks like; "" if unknown."""
    with os.scandir(folder) as entries:
        images = sum(is_image(entry.name) for entry in entries)
    names = visible(folder)
    if images and not names:
        return (
            f"It holds {images} images itself: if it is one class of several, pass the folder "
            f"above, --root {shlex.quote(str(folder.parent))}; otherwise sort the images into a "
            "folder per class."
        )
    if len(names) == 1 and _holds_classes(folder / names[0]):
        inner = shlex.quote(str(folder / names[0]))
        return f"Its class folders lie one level deeper: pass --root {inner}"
    if like := like_splits(folder, names):
        return like
    if len(names) > 1 and all(_holds_classes(folder / name) for name in names):
        return (
            f"It looks like folders of domains ({', '.join(names[:4])}) that hold class folders: "
            "use --dataset domain_folder, or pass one of them as --root."
        )
    return ""


def _holds_classes(folder: Path) -> bool:
    """Whether the sub-folders of a folder hold images."""
    return any(holds_images(folder / name) for name in visible(folder)[:5])


def holds_images(folder: Path) -> bool:
    """Whether there are images directly in a folder."""
    with os.scandir(folder) as entries:
        return any(is_image(entry.name) for entry in entries)


def way_to_place(place: Path) -> str:
    """Where a missing file or folder of a dataset may lie instead, as a command; "" if unknown."""
    try:
        return _found_beside(place)
    except OSError:  # a folder that may not be listed
        return ""


def _found_beside(place: Path) -> str:
    missing = [place]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    wanted, above = missing[-1], missing[-1].parent
    if not above.is_dir():
        return ""
    tail = place.relative_to(wanted)
    entries = sorted(entry for entry in above.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if entry.name.lower() == wanted.name.lower() and (entry / tail).exists():
            return f"There is {entry}. Rename it: {_move(entry, wanted)}"
    for entry in entries:
        # any folder may hold one of that name: it counts if more of the path, or the name, agrees
        is_likely = place != wanted or entry.name == above.name
        if is_likely and entry.is_dir() and (entry / wanted.name / tail).exists():
            return (
                f"There is {entry / wanted.name}, one level deeper. Move it: "
                f"{_move(entry / wanted.name, wanted)}"
            )
    if len(place.parts) > 1 and wanted.name == above.name and (above / tail).exists():
        return f"{above} is the dataset itself: pass the folder above, --root {above.parent}"
    return ""
