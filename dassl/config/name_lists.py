"""Class names from a command line or a file: lists, tables, JSON and YAML of other programs.

What cannot be a class name is refused with the name: a list that was taken for another form would
classify into words that nobody meant.
"""

from __future__ import annotations

import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dassl.utils.text_files import (
    entries_in,
    is_text_file,
    read_entries,
    read_json,
    read_text,
    table_rows,
    unquoted,
    visible,
)

from .yaml_files import parse_yaml

logger = logging.getLogger(__name__)
NAME_COLUMNS = ("name", "classname", "class_name", "class", "label_name", "label", "category")
HOLDERS = (  # entries of JSON and YAML that hold the names (YOLO, COCO, Hugging Face, torchvision)
    *("names", "classnames", "class_names", "classes", "categories", "id2label", "labels", "meta"),
)
TABLES = (".csv", ".tsv")
YAMLS = (".yaml", ".yml")
SUFFIXES = r"txt|csv|tsv|json|jsonl|ya?ml|names|lst|list|md|xlsx?|docx?|pbtxt"
PATH_LIKE = re.compile(rf"[^,\n]+\.({SUFFIXES})|(/|\.{{1,2}}/|~|[a-z]:\\)[^,\n]*", re.IGNORECASE)
WNID = re.compile(r"n\d{8}")
BULLET = re.compile(r"[-*•–]\s+")
PAIRS = ("[]", "()", "{}")  # around pasted lists
ASSIGNMENT = re.compile(r"\w+\s*=\s*(?=[\[({])")
UNSEEN = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of control characters and line ends
OF_NO_NAME = "{}<>|\ufffd"
EXPECTED = "Expected a name per line or between commas, a JSON or YAML list, or a table with names"


def read_names(given: str, flag: str) -> list[str]:
    """Class names of an argument: text between commas, or a file of one of the public forms.

    A file holds a name per line; WordNet ids and the labels 0, 1, ... beside the names are left out
    (the labels give the order), as are bullets and quotes; of synonyms between commas the first is
    taken. JSON and YAML (lists; index to name, index to [id, name], name to index, name to
    sentences; such an entry of a dataset's or model's description) and tables with a column of
    names are read too.

    Raises:
        FileNotFoundError, ValueError: as ``text_or_file``; a name that holds what no name does.
    """
    is_file = is_text_file(given)
    names = _names_of_file(Path(given)) if is_file else text_or_file(given, flag)
    where = given if is_file else flag
    return [name for name in (_checked(name, where) for name in names) if name]


def text_or_file(given: str, flag: str) -> list[str]:
    """Entries of an argument: those of the file that it names, or the text between commas.

    Args:
        given: text, or the path of a file.
        flag: how errors call it.

    Raises:
        FileNotFoundError: it looks like a path, and nothing is there.
        ValueError: a folder or another thing that is not a regular file; else as ``read_text``.
    """
    if is_text_file(given):
        return read_entries(given)
    if os.path.isdir(given):
        raise ValueError(f"{flag} {given} is a folder. Expected a text file, or text.")
    if os.path.lexists(given):
        raise ValueError(
            f"{flag} {given} is not a regular file (but a pipe, a device or a link to nothing). "
            "Expected a text file, or text."
        )
    if PATH_LIKE.fullmatch(given.strip()):
        raise FileNotFoundError(f"{flag} {given}: there is no such file.")
    return _pasted(given)


def _pasted(text: str) -> list[str]:
    """The entries of text between commas or line ends, without what surrounds a pasted list."""
    text = ASSIGNMENT.sub("", visible(text))
    if names := _names_in(_parsed(text)):
        return names
    around = next((p for p in PAIRS if text[:1] + text[-1:] == p and text.count(p[0]) == 1), "")
    parts = re.split(r"[,\r\n]", text[1:-1] if around else text)
    return [part for part in map(unquoted, parts) if part]


def _checked(name: str, where: str) -> str:
    """A name without what cannot be seen.

    Raises:
        ValueError: it holds what no class name holds.
    """
    wrong = [c for c in name if c in OF_NO_NAME or c != "\n" and unicodedata.category(c) in UNSEEN]
    wrong += [pair[0] for pair in PAIRS if name.count(pair[0]) != name.count(pair[1])]
    if wrong:
        shown = name if len(name) <= 60 else f"{name[:57]}..."
        raise ValueError(
            f"{where}: {shown!r} is not a class name, it holds {wrong[0]!r}. {EXPECTED}, in UTF-8."
        )
    return " ".join(visible(name).split())


def _names_of_file(path: Path) -> list[str]:
    text, suffix = read_text(path), path.suffix.lower()
    if suffix in YAMLS:
        return _names_of(parse_yaml(text, path), path)
    if (content := _parsed(text)) is not None or suffix == ".json":
        return _names_of(read_json(path) if content is None else content, path)
    if column := _named_column(text, path):
        return column
    if "\n" not in text.strip():
        return _pasted(text)
    texts = _without_marks(entries_in(text))
    if several := [text for text in texts if "," in text]:
        logger.warning(
            'The first of several names between commas is used in %d lines of %s, as of "%s".',
            len(several),
            path,
            several[0],
        )
    return [text.partition(",")[0].strip() for text in texts]


# --------------------------------------------------------------------- JSON and YAML
def _parsed(text: str) -> Any:
    """The list or object that JSON text, or a line of JSON per entry, holds; None for others."""
    text = text.strip()
    if text[:1] not in ("[", "{"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        lines = text.splitlines() if text[:2] == '{"' else []
    try:
        return [json.loads(line) for line in lines if line.strip()] or None
    except (ValueError, RecursionError):
        return None


def _names_of(content: Any, path: Path) -> list[str]:
    """The names in the content of a JSON or YAML file.

    Raises:
        ValueError: there are none.
    """
    if names := _names_in(content):
        return names
    raise ValueError(
        f'{path} holds no class names: expected a list of names, or an object {{"0": "first name", '
        '"1": ...}.'
    )


def _names_in(content: Any) -> list[str]:
    """The names in a list, or in an object whose keys or values are numbers or names; or []."""
    entries = content
    if isinstance(content, Mapping):
        inner = [content[key] for key in HOLDERS if isinstance(content.get(key), list | dict)]
        if inner:
            return _names_in(inner[0])
        content = {str(key): value for key, value in content.items()}
        values = list(content.values())
        if all(type(value) is int for value in values):
            entries = sorted(content, key=content.__getitem__)
        elif all(map(_is_count, content)):
            entries = [content[key] for key in sorted(content, key=int)]
        elif all(isinstance(v, list) and all(isinstance(s, str) for s in v) for v in values):
            entries = list(content)  # sentences per name
        else:
            return []
    if not isinstance(entries, list):
        return []
    if all(isinstance(entry, Mapping) and type(entry.get("id")) is int for entry in entries):
        entries = sorted(entries, key=lambda entry: entry["id"])
    names = [_name_in(entry) for entry in entries]
    return [name.strip() for name in names] if all(name.strip() for name in names) else []


def _name_in(entry: Any) -> str:
    """A name; that beside an id, as ["n01440764", "tench"] in Keras' file; or ""."""
    if isinstance(entry, Mapping):
        entry = next((entry[key] for key in NAME_COLUMNS if key in entry), None)
    elif isinstance(entry, list) and len(entry) == 2 and re.fullmatch(r"n\d+", str(entry[0])):
        entry = entry[1]
    return entry if isinstance(entry, str) else ""


# --------------------------------------------------------------------- tables and lines
def _named_column(text: str, path: Path) -> list[str]:
    """The column of names of a table with a header; empty for a table without one, or none.

    Raises:
        ValueError: a row of another length than the header, or numbers in place of names.
    """
    first = next((line for line in text.splitlines() if line.strip()), "")
    cells = [cell.strip().lower() for cell in re.split(r"[,;\t]", first)]
    is_named = len(cells) > 1 and (not set(NAME_COLUMNS).isdisjoint(cells) or "sep=" in first[:5])
    is_table = path.suffix.lower() in TABLES or is_named
    rows = list(table_rows(text, path)) if is_table else []
    header = [cell.lower() for cell in rows[0][1]] if rows else []
    named = [header.index(name) for name in NAME_COLUMNS if name in header]
    if not named or len(rows) == 1:
        return []
    body = [row for _, row in rows[1:]]
    for number, row in rows[1:]:
        if len(row) != len(header):
            columns = f"{len(header)} columns ({', '.join(header)})"
            raise ValueError(f'{path}, line {number}: "{",".join(row)}" is not a row of {columns}.')
    column = next((at for at in named if not all(row[at].isdecimal() for row in body)), None)
    if column is None:
        raise ValueError(f"{path}: its column {header[named[0]]} holds numbers, not class names.")
    for other in range(len(header)):
        if counts := _counts([row[other] for row in body]):
            body = [row for _, row in sorted(zip(counts, body, strict=True))]
            break
    return [row[column] for row in body]


def _without_marks(texts: list[str]) -> list[str]:
    """Leave out bullets, WordNet ids and labels; the latter give the order."""
    if len(texts) > 1 and all(map(BULLET.match, texts)):
        texts = [BULLET.sub("", text, count=1) for text in texts]
    cuts: tuple[Callable[[str], tuple[str, str]], ...] = (_first_word, _last_word)
    for _ in range(3):
        for cut in cuts:
            pairs = [cut(text) for text in texts]
            words, rests = [word for word, _ in pairs], [rest for _, rest in pairs]
            if len(set(rests)) < max(2, len(texts) / 2) or not all(rests):
                continue
            if all(map(WNID.fullmatch, words)):
                texts = rests
                break
            if counts := _counts(words):
                texts = [rest for _, rest in sorted(zip(counts, rests, strict=True))]
                break
        else:
            break
    return texts


def _counts(words: list[str]) -> list[int]:
    """The labels 0, 1, ... or 1, 2, ... in any order; empty for other words."""
    counts = [int(word) if _is_count(word) else -1 for word in words]
    first = min(counts, default=-1)
    is_all = first in (0, 1) and sorted(counts) == list(range(first, first + len(counts)))
    return counts if is_all else []


def _is_count(word: str) -> bool:
    return word.isdecimal() and len(word) < 10


def _first_word(text: str) -> tuple[str, str]:
    match = re.match(r"[\"'{]*(\w+)[\"']?[\s,:;.)=>-]+(.*)", text)
    return (match[1], unquoted(match[2].rstrip("} "))) if match else ("", "")


def _last_word(text: str) -> tuple[str, str]:
    match = re.match(r"(.*?)[\s,:;=>(-]+[\"']?(\w+)[\"'})]*$", text)
    return (match[2], unquoted(match[1])) if match else ("", "")
