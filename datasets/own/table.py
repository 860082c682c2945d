"""A table of images: a CSV file with the columns path and label, and maybe split and domain."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dassl.utils.text import did_you_mean
from dassl.utils.text_files import read_text, table_rows

from ..near_miss import SPLIT_OF
from .listing import Entry, Listing, listed

NEEDED = ("path", "label")
COLUMNS = (*NEEDED, "split", "domain")
FORM = 'a header "path,label" (and split, domain where there are such), then a line per image'


def list_table(table: Path) -> Listing:
    """The images that a table names; paths are relative to its folder, or absolute."""
    listing = Listing(table.parent, f"csv:{table}")
    try:
        rows = _read_rows(table, listing)
    except PermissionError as err:
        listing.problems.append(
            f"{table} cannot be read ({err.strerror}); expected a file that you may read. To allow "
            f"it: chmod u+r {table}"
        )
        return listing
    except ValueError as err:
        listing.problems.append(f"{err} Expected a CSV file with {FORM}; save it as UTF-8.")
        return listing
    if rows:
        _check_rows(listing, table, rows)
    listing.entries = sorted(set(listing.entries))
    if rows:
        domains = listing.domains
        among = f"; images of {len(domains)} domains ({listed(domains)})" if domains else ""
        listing.said.append(f"read from a table{among}")
    return listing


def _read_rows(table: Path, listing: Listing) -> dict[int, dict[str, str]]:
    """Line number -> its cells by column, stripped; empty with a problem for another form."""
    columns: list[str] = []
    rows: dict[int, dict[str, str]] = {}
    for number, cells in table_rows(read_text(table), table):
        if not columns:
            columns = [cell.lower() for cell in cells]
        else:
            rows[number] = dict(zip(columns, cells))
    if missing := [name for name in NEEDED if name not in columns]:
        held = f"has the columns {', '.join(columns)}" if columns else "is empty"
        listing.problems.append(
            f"{table} {held}; expected {FORM}. Write the column{'s' * (len(missing) > 1)} "
            f"{' and '.join(missing)} into its first line."
        )
        return {}
    if unread := [name for name in columns if name and name not in COLUMNS]:
        which = f"column{'s' * (len(unread) > 1)} {listed(unread)} of {table.name}"
        close = did_you_mean(unread[0], COLUMNS)
        listing.notes.append(f"not read: the {which}. {close}")
    if not rows:
        listing.problems.append(f"{table} has a header and no images; expected {FORM}.")
    return rows


def _check_rows(listing: Listing, table: Path, rows: dict[int, dict[str, str]]) -> None:
    """Make the entries, and a problem per kind of mistake."""
    faults: dict[str, list[int]] = {}
    seen: dict[str, Entry] = {}
    for line, row in rows.items():
        path, label = row.get("path", ""), row.get("label", "")
        split = SPLIT_OF.get(row.get("split", "").lower(), "")
        entry = Entry(_relative(path, listing.root), label, split, row.get("domain", ""))
        other = seen.setdefault(entry.path, entry)
        for kind, is_fault in {
            "path": not path or not label,
            "missing": bool(path) and not os.path.isfile(listing.path(entry)),
            "split": bool(row.get("split")) and not split,
            "twice": other.label != label,
            "mixed": other.split != split,
        }.items():
            if is_fault:
                faults.setdefault(kind, []).append(line)
        listing.entries.append(entry)
    said = [(bool(row.get("split")), line) for line, row in rows.items()]
    if len({has for has, _ in said}) > 1:
        faults["some"] = [line for has, line in said if not has]
    domains = Counter(bool(row.get("domain")) for row in rows.values())
    if len(domains) > 1:
        faults["domain"] = [line for line, row in rows.items() if not row.get("domain")]
    listing.problems += [
        f"{table}, {_lines(lines)}: {_FAULTS[kind]}" for kind, lines in faults.items()
    ]


_FAULTS = {
    "path": "no path or no label; expected both. Fill in the cells, or delete the lines.",
    "missing": "there is no such image; expected a path relative to the table's folder, or an "
    "absolute one. Correct the paths, or delete the lines.",
    "split": "an unknown split; expected train, val or test (or none in the whole column). Write "
    "one of them.",
    "twice": "the same image with another label before; expected one label per image. Delete the "
    "wrong lines.",
    "mixed": "the same image in another split before; expected one split per image. Delete the "
    "wrong lines.",
    "some": "no split, while other lines have one; expected a split on every line, or on none. "
    "Fill in the cells, or delete the column.",
    "domain": "no domain, while other lines have one; expected a domain on every line, or on "
    "none. Fill in the cells, or delete the column.",
}


def _relative(path: str, folder: Path) -> str:
    place = Path(path.replace("\\", "/"))
    return (Path(os.path.relpath(place, folder)) if place.is_absolute() else place).as_posix()


def _lines(numbers: Iterable[int]) -> str:
    """ "line 3", or "lines 3, 5 and 9 more"."""
    names = list(map(str, numbers))
    return f"line{'s' * (len(names) > 1)} {listed(names)}"
