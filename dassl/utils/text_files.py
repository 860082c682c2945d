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
from collections.abc import Iterator
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
INVISIBLE = dict.fromkeys(  # of no width and no meaning: separators, marks of direction, hyphens
    (0xAD, 0x200B, 0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F), *range(0x2060, 0x206A))
)
JOINERS = "\u200c\u200d"  # which mean something between two letters alone
NEWLINE = re.compile(r"\r\n|\r|\n")
QUOTES = ('""', "''", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb")
BRACKET = re.compile(r"(\w+\s*=\s*)?[\[({]|[\])}],?")  # a line around a pasted list
FOREIGN = (  # how files begin that are something else than the text that was asked for
    (b"PK\3\4", "is a zip archive or an Office document. Save it as text or CSV (UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "is an Office document. Save it as text or CSV (UTF-8)"),
    (b"{\\rtf", "is a document with formats. Save it as plain text (UTF-8)"),
    (b"%pdf-", "is a PDF file. Save its text (UTF-8)"),
    (b"\x1f\x8b", "is compressed (gzip). Unpack it first"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file. Run git lfs pull"),
    (b"<!doctype html", "is a web page, not the file. Download the file itself"),
    (b"<html", "is a web page, not the file. Download the file itself"),
    (b"<?xml", "is an XML file, which is not read here. Save its content as text"),
)
CONFLICT = re.compile(r"^<{7} ", re.MULTILINE)


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
        ValueError: a folder, a pipe, a file of more than 256 MB, one that is not text or evidently
            another text, or that holds a merge conflict.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file; expected a text file.")
    size = path.stat().st_size
    if size > LARGEST_TEXT:
        raise ValueError(f"{path} has {size:,} bytes; a text file may have {LARGEST_TEXT:,}.")
    data = path.read_bytes()
    if what := another_file(data[:64]):
        raise ValueError(f"{path} {what}.")
    encoding = encoding_of(data)
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
    if "<<<<<<< " in text and (conflict := CONFLICT.search(text)):
        line = text.count("\n", 0, conflict.start()) + 1
        raise ValueError(
            f"{path}, line {line}: a merge conflict. Keep one side, without its marks."
        )
    return text


def another_file(start: bytes) -> str:
    """What a file is that begins so and is hardly what was asked for, with advice; or ""."""
    start = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    return next((what for begin, what in FOREIGN if start.startswith(begin.lower())), "")


def encoding_of(data: bytes) -> str:
    """The encoding of text, by its mark; UTF-16 without one shows by zeros in its ASCII letters."""
    if marked := next((name for mark, name in MARKS if data.startswith(mark)), ""):
        return marked
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


def plain_name(name: str) -> str:
    """A class name without what lists spell differently: case, ``_``, ``-``, later synonyms."""
    return " ".join(re.split(r"[\s_-]+", name.partition(",")[0].strip().casefold()))


def read_entries(path: str | os.PathLike) -> list[str]:
    """One entry per line, or a JSON list of strings.

    What surrounds a pasted list, and lines that begin with ``# ``, are left out.

    Raises:
        FileNotFoundError, ValueError: as ``read_lines``; JSON that is not a list of strings.
    """
    if Path(path).suffix.lower() == ".json":
        content = read_json(path)
        if isinstance(content, list) and all(isinstance(entry, str) for entry in content):
            return content
        raise ValueError(f"{path} is not a JSON list of strings.")
    return entries_in(read_text(path))


def entries_in(text: str) -> list[str]:
    """The entries of a text, one per line, as ``read_entries`` reads them."""
    lines = (line.strip() for line in NEWLINE.split(text))
    texts = (line for line in lines if not line.startswith("# ") and not BRACKET.fullmatch(line))
    bare = (text.strip("[]").strip().rstrip(",").strip() for text in texts)
    return [unquoted(text) for text in bare if text]


def table_rows(text: str, path: str | os.PathLike) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, cells without blanks around) of the rows that are not empty.

    Between cells stands a tab, else a semicolon, else a comma, as the first line shows, or what
    Excel's first line ``sep=;`` says.

    Raises:
        ValueError: a row that no table has; names file and line.
    """
    lines = [f"{line}\n" for line in NEWLINE.split(text)]
    at = next((at for at, line in enumerate(lines) if line.strip()), 0)
    said = re.fullmatch(r'"?sep=(.)"?', lines[at].strip(), re.IGNORECASE)
    if said:
        lines[at] = "\n"
    mark = "\t" if "\t" in lines[at] else ";" if "," not in lines[at] and ";" in lines[at] else ","
    reader = csv.reader(lines, delimiter=said[1] if said else mark)
    try:
        for row in reader:
            if any(cells := [cell.strip() for cell in row]):
                yield reader.line_num, cells
    except csv.Error as err:
        raise ValueError(f"{path}, line {reader.line_num}: not a row of a table ({err}).") from err


def visible(text: str) -> str:
    """A text without characters that cannot be seen, and without blanks around it."""
    return text.translate(INVISIBLE).strip().strip(JOINERS).strip()


def unquoted(text: str) -> str:
    """A text without blanks and quotes around it."""
    text = text.strip()
    around = len(text) > 1 and text[0] + text[-1] in QUOTES
    is_one = around and text[0] not in text[1:-1] and text[-1] not in text[1:-1]
    return text[1:-1].strip() if is_one else text
