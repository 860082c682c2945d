"""From records to tables, and from tables to text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tabulate import tabulate

from dassl.terminal import printable
from dassl.utils.text import cell
from tools.results.base2new import base2new_table
from tools.results.domains import domain_tables
from tools.results.lists import list_table
from tools.results.records import Record
from tools.results.series import Series, group
from tools.results.statistics import spread_in_words
from tools.results.tables import PROTOCOL_TITLES, PUBLISHED_NOTE, Table
from tools.results.transfer import TRANSFER_PROTOCOLS, transfer_tables

LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
}


def build_tables(
    records: Sequence[Record],
    *,
    metric: str = "accuracy",
    ci95: bool = False,
    published: bool = False,
    base2new_only: bool = False,
    all_splits: bool = False,
) -> list[Table]:
    """One table per protocol (transfer: per source, leave-one-out: per dataset).

    Raises:
        ValueError: no run has the metric, or no base / new run where only those are asked for.
    """
    series = group(records, all_splits=all_splits)
    known = sorted({name for item in series for name in item.metrics})
    if not series:
        splits = sorted({name for record in records for name in record.metrics})
        raise ValueError(
            f"The runs recorded no test accuracy, only numbers of: {', '.join(splits)}. "
            "--all-splits shows them."
        )
    if metric not in known:
        raise ValueError(
            f'No run has the metric "{metric}". Known: {", ".join(known) or "none"}. '
            f"The first run: {records[0].path}."
        )
    is_quoted = published and metric == "accuracy"
    options: dict[str, Any] = {"metric": metric, "ci95": ci95, "published": is_quoted}
    halves = [item for item in series if item.key.part in ("base", "new")]
    tables = [base2new_table(halves, **options)] if halves else []
    if base2new_only and not halves:
        raise ValueError("No base-to-novel run here: none of the runs is of part base or new.")
    if not base2new_only:
        tables += _other_tables([item for item in series if item not in halves], options)
    words = spread_in_words([len(v) for item in series for v in item.metrics.values()], ci95=ci95)
    for table in tables:
        if any(" ± " in text for row in table.rows for text in row):
            table.title += f"; {words}"
        if published and not is_quoted:
            table.notes.insert(0, PUBLISHED_NOTE.format(metric=metric))
    return [table for table in tables if table.rows]


def _other_tables(series: Sequence[Series], options: dict) -> list[Table]:
    """Transfer, domains, and lists of everything else."""
    tables = []
    for protocol in TRANSFER_PROTOCOLS:
        tables += transfer_tables(protocol, series, **options)
    tables += domain_tables(series, **options)
    wide = (*TRANSFER_PROTOCOLS, "lodo")
    listed = [item for item in series if item.key.protocol not in wide]
    for title, some in groupby(
        sorted(listed, key=lambda item: _title(item.key.protocol)),
        key=lambda item: _title(item.key.protocol),
    ):
        tables.append(list_table(list(some), title=title, **options))
    return tables


def _title(protocol: str) -> str:
    return PROTOCOL_TITLES.get(protocol, protocol)


def as_text(tables: Sequence[Table]) -> str:
    """Tables for a terminal."""
    return "\n\n".join(_block(table, "simple") for table in tables)


def as_markdown(tables: Sequence[Table]) -> str:
    """Tables as GitHub Markdown."""
    return "\n\n".join(_block(table, "github") for table in tables)


def as_latex(tables: Sequence[Table]) -> str:
    """Tables for LaTeX (package booktabs), each a tabular with its title and notes as comments.

    A cell between two `**` is bold.
    """
    return "\n\n".join(map(_latex, tables))


def _latex(table: Table) -> str:
    align = "".join("r" if _is_numeric(table, i) else "l" for i in range(len(table.headers)))
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", _latex_row(table.headers), r"\midrule"]
    lines += [*map(_latex_row, table.rows), r"\bottomrule", r"\end{tabular}"]
    comments = [f"% {' '.join(text.split())}" for text in (table.title, *table.notes)]
    return "\n".join([comments[0], *lines, *comments[1:]])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex_cell, cells)) + r" \\"


def _latex_cell(text: str) -> str:
    if len(text) > 4 and text.startswith("**") and text.endswith("**"):
        return rf"\textbf{{{_latex_cell(text[2:-2])}}}"
    return "".join(LATEX.get(letter, letter) for letter in text)


def as_json(tables: Sequence[Table]) -> str:
    """All rows at full precision: a list of {title, notes, rows}."""
    content = [{"title": t.title, "notes": t.notes, "rows": t.data} for t in tables]
    return json.dumps(content, indent=2, ensure_ascii=False)


def as_csv(tables: Sequence[Table]) -> str:
    """All rows at full precision in one CSV; the first column is the table's title."""
    names = list(dict.fromkeys(name for t in tables for row in t.data for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["table", *names], lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table.data:
            writer.writerow({"table": table.title} | {k: _plain(v) for k, v in row.items()})
    return stream.getvalue().rstrip("\n")


def _plain(value: object) -> object:
    """A list as one cell; texts hold blanks and are parted by semicolons."""
    if not isinstance(value, (list, tuple)):
        return cell(value)
    separator = "; " if any(isinstance(item, str) for item in value) else " "
    return cell(separator.join(map(str, value)))


def _block(table: Table, style: str) -> str:
    heading = f"**{table.title}**" if style == "github" else table.title
    align = ["right" if _is_numeric(table, i) else "left" for i in range(len(table.headers))]
    body = tabulate(
        table.rows, table.headers, tablefmt=style, colalign=align, disable_numparse=True
    )
    lines = [heading, "", body, *([""] if table.notes else []), *table.notes]
    return printable("\n".join(lines))


def _is_numeric(table: Table, column: int) -> bool:
    values = [row[column] for row in table.rows if row[column]]
    return bool(values) and all(value.lstrip("*+−")[:1].isdigit() for value in values)
