"""Readable names for class folders: ``classnames.txt``, ``.json`` or ``.csv`` beside the data.

A line (or JSON entry) is a folder and its name, or, where the file holds as many names as there are
classes and none of the folders, a name per class in the order of the sorted folders.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from dassl.utils.text_files import (
    INVISIBLE,
    read_json,
    read_lines,
    read_text,
    table_rows,
    visible,
)

from .listing import Listing, listed

FILES = ("classnames.txt", "classnames.json", "classnames.csv")
FORM = "a line per class, as: n01530575 brambling"
GIVE_NAMES = "Write them into a file (a line per class, as: 3 robin) and give --classnames FILE"


def name_classes(listing: Listing, given: str = "") -> None:
    """Fill ``listing.names``; what is wrong with a file of names becomes a problem.

    Args:
        listing: whose labels are named.
        given: DATASET.CLASSNAMES, a file; "" takes the one that lies beside the data.
    """
    labels = sorted({entry.label for entry in listing.entries})
    if not labels:  # nothing to name; the folder may be closed
        return
    found = [Path(given)] if given else [p for name in FILES if (p := listing.root / name).exists()]
    if len(found) > 1:
        listing.problems.append(
            f"{listing.root} holds {' and '.join(path.name for path in found)}; expected one of "
            f"them. Delete the others, or name one: --classnames {found[0]}"
        )
    listing.names = dict(zip(labels, labels))
    if found:
        try:
            listing.names |= _names_in(found[0], labels, listing)
            listing.said.append(f"class names from {found[0].name}")
        except (ValueError, OSError) as err:
            listing.problems.append(_fault(found[0], err))
    elif listing.spec.startswith("csv:") and all(map(str.isdecimal, labels)):
        listing.problems.append(
            f'{listing.spec.removeprefix("csv:")}: the labels are numbers, as "{labels[0]}"; '
            f"expected names of classes, which the text encoder reads. {GIVE_NAMES}"
        )
    _check_different(listing)


def _fault(path: Path, err: Exception) -> str:
    if isinstance(err, FileNotFoundError):
        return f"--classnames {path}: there is no such file; expected {FORM}. Correct the path."
    if isinstance(err, OSError):
        return f"{path} cannot be read ({err.strerror}); expected {FORM}. Change its permissions."
    return str(err)


def _names_in(path: Path, labels: Sequence[str], listing: Listing) -> dict[str, str]:
    """Label -> name of the classes that a file names.

    Raises:
        ValueError: it is of no known form; OSError: it cannot be read.
    """
    known = set(labels)
    if path.suffix.lower() == ".json":
        names = _of_json(path, labels)
    elif path.suffix.lower() in (".csv", ".tsv"):
        rows = [row for _, row in table_rows(read_text(path), path)]
        names = _of_pairs(rows, path, labels)
    else:
        texts = [line.text for line in read_lines(path)]
        names = _of_pairs([_pair(text, known) for text in texts], path, labels)
    if unknown := sorted(set(names) - known - {"folder", "label", "class", "path"}):
        listing.notes.append(f"{path.name} names classes without images: {listed(unknown)}")
    if unnamed := sorted(known - set(names)):
        listing.notes.append(f"{path.name} has no name for {listed(unnamed)}: called as they are")
    return {label: visible(name) for label, name in names.items() if label in known}


def _pair(text: str, known: set[str]) -> list[str]:
    """The folder and the name in a line; the folder's own name may hold blanks before a mark."""
    for mark in ("\t", ":", "=", ","):
        folder, found, name = text.partition(mark)
        if found and folder.strip() in known:
            return [folder.strip(), name.strip()]
    folder, _, name = text.partition(" ")
    return [folder, name.strip()] if folder in known and name else [text]


def _of_pairs(rows: list[list[str]], path: Path, labels: Sequence[str]) -> dict[str, str]:
    """Names from [folder, name] rows, or from a column of names in the labels' order."""
    known, width = set(labels), max(map(len, rows), default=0)
    hits = [sum(row[at] in known for row in rows if len(row) > at) for at in range(width)]
    if width > 1 and any(hits):
        at = hits.index(max(hits))  # the column of folders; a name stands beside it, or before
        pairs = {row[at]: _name_beside(row, at) for row in rows if len(row) > max(at, 1)}
        others = (row[0] for row in rows if len(row) == 1)
        return {k: v for k, v in pairs.items() if v} | {t.split()[0]: t for t in others if t}
    column = [row[0] for row in rows if row[0]]
    if width == 1 and len(column) == len(labels):
        return dict(zip(labels, column))
    raise ValueError(
        f"{path} has {len(rows)} lines and names none of the {len(labels)} classes "
        f"({listed(labels)}); expected {FORM}, or as many names as classes."
    )


def _name_beside(row: list[str], at: int) -> str:
    """The first cell after the folder's, or else before it, that is neither empty nor a number."""
    cells = [cell for cell in (*row[at + 1 :], *row[:at]) if cell]
    return next((cell for cell in cells if not cell.isdecimal()), *cells[:1])


def _of_json(path: Path, labels: Sequence[str]) -> dict[str, str]:
    content = read_json(path)
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return _of_pairs([[name] for name in content], path, labels)
    if isinstance(content, dict) and all(isinstance(name, str) for name in content.values()):
        return _of_pairs([[label, name] for label, name in content.items()], path, labels)
    raise ValueError(f'{path} is of another form; expected {{"folder": "name", ...}}.')


def plain(name: str) -> str:
    """A name as the text encoder reads it: in one case and spelling, ``_`` as a blank."""
    name = unicodedata.normalize("NFC", name.translate(INVISIBLE))
    return re.sub(r"[\s_]+", " ", name).strip().casefold()


def _check_different(listing: Listing) -> None:
    """A problem where two classes have the same name: no prompt tells them apart."""
    of_name: dict[str, list[str]] = {}
    for label, name in listing.names.items():
        of_name.setdefault(plain(name), []).append(label)
    same = [labels for labels in of_name.values() if len(labels) > 1]
    if same:
        groups = listed(" and ".join(f'"{label}"' for label in labels) for labels in same)
        listing.problems.append(
            f"Classes {groups} have the same name; expected a name of its own for each (case and "
            '"_" do not count). Merge the folders, or give names: --classnames FILE'
        )
