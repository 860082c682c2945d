"""Text that other programs and people wrote: class names, lists, sentences, JSON, YAML.

One reader for all of it. Byte order marks, UTF-16, Windows line ends and tabs are understood; bytes
that are not Unicode are read as Windows-1252, with a warning. Errors name the file and the line.
"""

import codecs
import csv
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)
LARGEST_TEXT = 256 * 2**20  # bytes; the longest split file (ImageNet's) has 130 MB
MARKS = (  # longest first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
FALLBACK = "cp1252"  # a superset of the printable part of latin-1
INVISIBLE = str.maketrans("", "", "\u200b\u2060\ufeff")  # of no width and no meaning
NEWLINE = re.compile(r"\r\n|\r|\n")
NAME_COLUMNS = ("name", "classname", "class_name", "class", "label_name", "label", "category")
PATH_LIKE = re.compile(r"[^,\n]+\.(txt|csv|tsv|json|names|lst|list)", re.IGNORECASE)
WNID = re.compile(r"n\d{8}")
TABLES = {".csv": ",", ".tsv": "\t"}


class Line(NamedTuple):
    """A line of a file that is not empty, without blanks at its ends."""

    text: str
    number: int  # from 1
    path: Path

    def fault(self, expected: str) -> ValueError:
        """The error for a line of another form."""
        shown = self.text if len(self.text) <= 80 else f"{self.text[:77]}..."
        return ValueError(f'{self.path}, line {self.number}: "{shown}" is not {expected}.')


def read_text(path: str | os.PathLike) -> str:
    """The text in a file, whatever its encoding.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, a pipe, a file of more than 256 MB, or one that is not text.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file; expected a text file.")
    size = path.stat().st_size
    if size > LARGEST_TEXT:
        raise ValueError(f"{path} has {size:,} bytes; a text file may have {LARGEST_TEXT:,}.")
    data = path.read_bytes()
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), _unmarked(data))
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as err:
        if encoding != "utf-8" or b"\0" in data:
            raise ValueError(f"{path} is not a text file ({err}).") from err
        text = data.decode(FALLBACK, errors="replace")
        logger.warning(
            "%s, line %d, is not UTF-8: read as Windows-1252. Save the file as UTF-8 if a name "
            "looks wrong.",
            path,
            data.count(b"\n", 0, err.start) + 1,
        )
    if "\0" in text:
        raise ValueError(f"{path} is not a text file: it holds zero bytes.")
    return text


def _unmarked(data: bytes) -> str:
    """The encoding of text without a mark: UTF-16 shows by the zero bytes of its ASCII letters."""
    head = data[:1024]
    if head and len(data) % 2 == 0:
        for encoding, zeros, letters in (
            ("utf-16-le", head[1::2], head[::2]),
            ("utf-16-be", head[::2], head[1::2]),
        ):
            if zeros.count(0) > 0.4 * len(zeros) and not letters.count(0):
                return encoding
    return "utf-8"


def read_lines(path: str | os.PathLike) -> list[Line]:
    """The lines of a text file that are not empty.

    Raises:
        FileNotFoundError, ValueError: as ``read_text``.
    """
    lines = enumerate(NEWLINE.split(read_text(path)), start=1)
    return [Line(text.strip(), number, Path(path)) for number, text in lines if text.strip()]


def read_json(fpath: str | os.PathLike) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: the file is not JSON; names the path and the line.
    """
    text = read_text(fpath)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        reason = "it is nested too deeply" if isinstance(err, RecursionError) else err
        raise ValueError(f"{fpath} is not valid JSON: {reason}") from err


def is_text_file(given: str) -> bool:
    """Whether an argument names a file; any text may be asked, however long."""
    return os.path.isfile(given)  # False, not an error, for text that no path can be


def text_or_file(given: str, flag: str) -> list[str]:
    """Entries of an argument: one per line of the file that it names, or the text between commas.

    Args:
        given: text, or the path of a file.
        flag: how errors call it.

    Raises:
        FileNotFoundError: it looks like a path, and nothing is there.
        ValueError: as ``read_text``.
    """
    if is_text_file(given):
        return [line.text for line in read_lines(given)]
    if os.path.isdir(given):
        raise ValueError(f"{flag} {given} is a folder. Expected a text file, or text.")
    if PATH_LIKE.fullmatch(given.strip()):
        raise FileNotFoundError(f"{flag} {given}: there is no such file.")
    return _pasted(given)


def _pasted(text: str) -> list[str]:
    """The entries of text between commas or line ends, without what surrounds a pasted list."""
    text = text.translate(INVISIBLE).strip()
    if text[:1] == "[" and text[-1:] == "]":
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError):  # not JSON: single quotes, no quotes
            entries, text = None, text[1:-1]
        if isinstance(entries, list) and all(isinstance(entry, str) for entry in entries):
            return [entry.strip() for entry in entries if entry.strip()]
    parts = (_unquoted(part) for part in re.split(r"[,\r\n]", text))
    return [part for part in parts if part]


def plain_name(name: str) -> str:
    """A class name without what lists spell differently: case, ``_``, ``-``, later synonyms."""
    return " ".join(re.split(r"[\s_-]+", name.partition(",")[0].strip().casefold()))


def read_entries(path: str | os.PathLike) -> list[str]:
    """One entry per line, or a JSON list of strings; what surrounds a pasted list is left out.

    Raises:
        FileNotFoundError, ValueError: as ``read_lines``; JSON that is not a list of strings.
    """
    if Path(path).suffix.lower() == ".json":
        content = read_json(path)
        if isinstance(content, list) and all(isinstance(entry, str) for entry in content):
            return content
        raise ValueError(f"{path} is not a JSON list of strings.")
    texts = (line.text.strip("[]").strip().rstrip(",").strip() for line in read_lines(path))
    return [_unquoted(text) for text in texts if text]


def read_names(given: str, flag: str) -> list[str]:
    """Class names of an argument: text between commas, or a file of one of the public forms.

    A file holds a name per line; WordNet ids and the labels 0, 1, ... beside the names are left out
    (the labels give the order), of synonyms between commas the first is taken. JSON lists and
    objects (index to name, index to [id, name], name to index, name to sentences) and CSV tables
    with a column of names are read too.

    Raises:
        FileNotFoundError, ValueError: as ``text_or_file``; JSON of another form.
    """
    if not is_text_file(given):
        return text_or_file(given, flag)
    names = (name.translate(INVISIBLE).strip() for name in _names_of_file(given))
    return [name for name in names if name]


def _names_of_file(given: str) -> list[str]:
    suffix = Path(given).suffix.lower()
    if suffix == ".json":
        return _names_of_json(read_json(given), given)
    if suffix in TABLES and (column := _named_column(read_lines(given), TABLES[suffix])):
        return column
    texts = _without_numbers(read_entries(given))
    if len(texts) == 1:
        return [part.strip() for part in texts[0].split(",") if part.strip()]
    if several := [text for text in texts if "," in text]:
        logger.warning(
            'The first of several names between commas is used in %d lines of %s, as of "%s".',
            len(several),
            given,
            several[0],
        )
    return [text.partition(",")[0].strip() for text in texts]


def _names_of_json(content: Any, path: str) -> list[str]:
    """The names in a list, or in an object whose keys or values are numbers or names."""
    entries = content
    if isinstance(content, dict):
        if all(isinstance(value, int) for value in content.values()):
            entries = sorted(content, key=content.__getitem__)
        elif all(map(_is_count, content)):
            entries = [content[key] for key in sorted(content, key=int)]
        else:
            entries = list(content)  # sentences per name
    if isinstance(entries, list):  # ["n01440764", "tench"] in Keras' file
        entries = [entry[-1] if isinstance(entry, list) and entry else entry for entry in entries]
        if entries and all(isinstance(entry, str) and entry.strip() for entry in entries):
            return [entry.strip() for entry in entries]
    raise ValueError(
        f"{path} holds no class names: expected a JSON list of names, or an object "
        '{"0": "first name", "1": ...}.'
    )


def table_rows(
    lines: Sequence[str], separator: str, path: str | os.PathLike
) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, cells without blanks around) of the rows that are not empty.

    Raises:
        ValueError: a row that no table has; names file and line.
    """
    reader = csv.reader(lines, delimiter=separator)
    try:
        for row in reader:
            if any(cells := [cell.strip() for cell in row]):
                yield reader.line_num, cells
    except csv.Error as err:
        raise ValueError(f"{path}, line {reader.line_num}: not a row of a table ({err}).") from err


def _named_column(lines: Sequence[Line], separator: str) -> list[str]:
    """The column of names of a table with a header; empty for a table without one."""
    reader = csv.reader((line.text for line in lines), delimiter=separator)
    rows: list[list[str]] = []
    header: list[str] = []
    try:
        for row in reader:
            header = header or [cell.strip().lower() for cell in row]
            if set(header) & set(NAME_COLUMNS) and len(row) != len(header):
                line = lines[reader.line_num - 1]  # a cell in quotes may hold line ends
                raise line.fault(f"a row of {len(header)} columns ({', '.join(header)})")
            rows.append(row)
    except csv.Error as err:
        raise lines[max(reader.line_num, 1) - 1].fault(f"a row of a table ({err})") from err
    for name in NAME_COLUMNS:
        cells = [row[header.index(name)].strip() for row in rows[1:]] if name in header else []
        if not all(cell.isdecimal() for cell in cells):
            return cells
    return []


def _without_numbers(texts: list[str]) -> list[str]:
    """Leave out the columns of WordNet ids and labels; the latter give the order."""
    for _ in range(3):
        for cut in (_first_word, _last_word):
            pairs = [cut(text) for text in texts]
            words, rests = [word for word, _ in pairs], [rest for _, rest in pairs]
            if len(set(rests)) < max(2, len(texts) / 2) or not all(rests):
                continue
            if all(map(WNID.fullmatch, words)):
                texts = rests
                break
            counts = [int(word) if _is_count(word) else -1 for word in words]
            first = min(counts)
            if first in (0, 1) and sorted(counts) == list(range(first, first + len(counts))):
                texts = [rest for _, rest in sorted(zip(counts, rests, strict=True))]
                break
        else:
            break
    return texts


def _is_count(word: str) -> bool:
    return word.isdecimal() and len(word) < 10


def _first_word(text: str) -> tuple[str, str]:
    match = re.match(r"[\"'{]*(\w+)[\"']?[\s,:;]+(.*)", text)
    return (match[1], _unquoted(match[2])) if match else ("", "")


def _last_word(text: str) -> tuple[str, str]:
    match = re.match(r"(.*?)[\s,:;]+[\"']?(\w+)[\"'}]*$", text)
    return (match[2], _unquoted(match[1])) if match else ("", "")


def _unquoted(text: str) -> str:
    text = text.strip().rstrip("}").strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] in "\"'" else text
