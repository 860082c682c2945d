"""Class names of ImageNet and its variants, and records of their id folders."""

import logging
import re
from pathlib import Path

from dassl.utils.text_files import Line, plain_name, read_lines

from .imagenet_classes import default_classnames
from .records import Record

logger = logging.getLogger(__name__)
WNID = re.compile(r"\bn\d+\b")
LABEL = re.compile(r"^\d+[\s,:]+(?=\S)|[\s,:]+\d+$")  # what some lists have beside the name
MOST = 0.5  # of the names must be ImageNet's, in any spelling


def read_classnames(text_file: Path) -> dict[str, str]:
    """``classnames.txt``, a line ``wnid class name`` per class -> id -> name, in file order.

    The id may come last, a label may stand beside it, and commas or tabs may part them; of several
    names the first is taken.

    Raises:
        ValueError: a line without id or name, an id with two names, or a list whose names belong to
            other ids than those of ImageNet.
    """
    rows = [(line, *_id_and_names(line)) for line in read_lines(text_file)]
    names: dict[str, str] = {}
    for line, wnid, synonyms in rows:
        name = synonyms.partition(",")[0].strip()
        if names.setdefault(wnid, name) != name:
            raise line.fault(
                f'"{wnid} {names[wnid]}", which an earlier line says; expected one of them'
            )
    published = default_classnames()
    known = [row for row in rows if row[1] in published]
    others = [row for row in known if not _is_called(published[row[1]], row[2])]
    if len(others) > MOST * len(known):
        line, wnid, synonyms = others[0]
        raise ValueError(
            f"{text_file} disagrees with ImageNet on {len(others)} of {len(known)} class names, "
            f'first in line {line.number}: {wnid} is "{published[wnid]}", not "{synonyms}". Its '
            "names seem to belong to other lines. Delete it to use the published names."
        )
    if others:
        line, wnid, synonyms = others[0]
        logger.warning(
            '%s, line %d: "%s" is not what ImageNet calls %s, "%s" (%d such names). They are used '
            "as they are.",
            *(text_file, line.number, synonyms, wnid, published[wnid], len(others)),
        )
    return names


def _id_and_names(line: Line) -> tuple[str, str]:
    found = WNID.search(line.text)
    rest = line.text.replace(found[0], " ", 1) if found else ""
    rest = LABEL.sub("", rest.strip(" \t,:;\"'")).strip(" \t,:;\"'")
    if not found or not rest:
        raise line.fault('"wnid class name"')
    return found[0], rest


def _is_called(published: str, synonyms: str) -> bool:
    """Whether a name, up to plurals and added words, is among synonyms."""
    words = set(plain_name(published).split())
    return any(words & set(plain_name(name).split()) for name in synonyms.split(","))


def name_files(root: Path, folder: str) -> tuple[Path, ...]:
    """Where class names are looked for: the dataset's own file, then ImageNet's."""
    return tuple(root / name / "classnames.txt" for name in dict.fromkeys((folder, "imagenet")))


def classnames_of(root: Path, folder: str) -> dict[str, str]:
    """Id -> class name for the dataset in ``folder``, from a file or from open_clip_torch."""
    for path in name_files(root, folder):
        if path.exists():
            return read_classnames(path)
    looked = " and ".join(str(path) for path in name_files(root, folder))
    print(f"No class names in {looked}: using those of open_clip_torch (the same list)")
    return default_classnames()


def folder_records(
    listing: dict[str, list[str]], ids: list[str], names: dict[str, str], *, prefix: str = ""
) -> list[Record]:
    """Listing of id folders -> records, classes in the order of ``ids``."""
    require_names(ids, names)
    start = f"{prefix}/" if prefix else ""
    return [
        Record(start + path, label, names[wnid])
        for label, wnid in enumerate(ids)
        for path in listing.get(wnid, ())
    ]


def require_names(ids: list[str], names: dict[str, str]) -> None:
    """Raise a ValueError if an id has no class name."""
    missing = [wnid for wnid in ids if wnid not in names]
    if missing:
        raise ValueError(
            f"The class {missing[0]} ({len(missing)} such) is in no line of classnames.txt. Remove "
            "its folder, or complete the file (python tools/check_data.py imagenet)."
        )
