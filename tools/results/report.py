"""From records to tables, and from tables to text, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from tabulate import tabulate

from tools.protocols.sets import TRANSFER_TARGETS
from tools.results.base2new import base2new_table
from tools.results.published import Entry, find_published
from tools.results.records import Record, load_records
from tools.results.series import Key, Series, group
from tools.results.tables import PROTOCOL_TITLES, Table, list_table, wide_table

TRANSFER_PROTOCOLS = ("dg", "xd")
COLUMN_ORDER = [name for targets in TRANSFER_TARGETS.values() for name in targets]
IN_DOMAIN = "(inD)"  # ends the name of what was measured on the source domains
SHORT_NAMES = {
    "imagenetv2": "-V2",
    "imagenet_sketch": "-Sketch",
    "imagenet_a": "-A",
    "imagenet_r": "-R",
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
        raise ValueError(f'No run has the metric "{metric}". Known: {", ".join(known)}.')
    options = {"metric": metric, "ci95": ci95}
    halves = [item for item in series if item.key.part in ("base", "new")]
    tables = []
    if halves:
        tables.append(base2new_table(halves, published=published, **options))
    elif base2new_only:
        raise ValueError("No base-to-novel run here: none of the runs is of part base or new.")
    if base2new_only:
        return tables
    rest = [item for item in series if item not in halves]
    for protocol in TRANSFER_PROTOCOLS:
        tables += _transfer_tables(protocol, rest, published=published, **options)
    tables += _domain_tables(rest, published=published, **options)
    wide = (*TRANSFER_PROTOCOLS, "lodo")
    listed = [item for item in rest if item.key.protocol not in wide]
    for title, some in groupby(
        sorted(listed, key=lambda item: _title(item.key.protocol)),
        key=lambda item: _title(item.key.protocol),
    ):
        tables.append(list_table(list(some), title=title, published=published, **options))
    return [table for table in tables if table.rows]


def _title(protocol: str) -> str:
    return PROTOCOL_TITLES.get(protocol, protocol)


def _transfer_tables(
    protocol: str, series: list[Series], *, metric: str, ci95: bool, published: bool
) -> list[Table]:
    """Source -> targets. The source's own number and zero-shot rows join from their own runs."""
    tables = []
    targets = [item for item in series if item.key.protocol == protocol]
    for source in sorted({item.key.source for item in targets}):
        own = [item for item in targets if item.key.source == source]
        names = sorted({item.key.dataset for item in own}, key=_column_order)
        backbones = {item.key.backbone for item in own}
        zeroshot = [
            item
            for item in series
            if item.key.protocol == "zeroshot"
            and item.key.dataset in (source, *names)
            and item.key.backbone in backbones
        ]
        rows = zeroshot + _source_series(own) + own
        shown = [source, *names] if source else names
        columns = [(name, SHORT_NAMES.get(name, name)) for name in shown]
        entries = _transfer_entries(protocol, rows, backbones) if published else []
        table = wide_table(
            rows,
            title=f"{_title(protocol)}, trained on {source or 'nothing'}",
            columns=columns,
            metric=metric,
            ci95=ci95,
            published=entries,
            averaged=names,
        )
        if source:
            table.notes.insert(0, f"average: over the targets, without {source}.")
        tables.append(table)
    return tables


def _transfer_entries(protocol: str, rows: Sequence[Series], backbones: set[str]) -> list[Entry]:
    """Published rows of the measured trainers and backbones."""
    trainers = {item.key.trainer for item in rows}
    return [
        entry
        for backbone in sorted(backbones)
        for entry in find_published(protocol=protocol, backbone=backbone)
        if entry.trainer in trainers
    ]


def _column_order(dataset: str) -> tuple:
    """The papers' order where it is known, then by name."""
    return (COLUMN_ORDER.index(dataset) if dataset in COLUMN_ORDER else len(COLUMN_ORDER), dataset)


def _source_series(targets: Sequence[Series]) -> list[Series]:
    """The runs that trained the evaluated models, found by their `--model-dir`."""
    evaluations = [record for item in targets for record in item.records if record.model_dir]
    folders = {_source_folder(record) for record in evaluations}
    records = []
    for folder in sorted(folders):
        try:
            records += load_records([folder]).records
        except FileNotFoundError:
            continue  # the source run was moved or deleted: its column stays empty
    return group(records)


def _source_folder(record: Record) -> Path:
    """Where an evaluated model lies; a relative path counts from the folder of the run tree."""
    places = [folder / record.model_dir for folder in record.path.absolute().parents]
    return next((place for place in places if place.is_dir()), Path(record.model_dir))


def _domain_tables(
    series: list[Series], *, metric: str, ci95: bool, published: bool
) -> list[Table]:
    """Leave one domain out: a column per target domain and their average, a table per dataset."""
    tables = []
    runs = [item for item in series if item.key.protocol == "lodo"]
    for dataset in sorted({item.key.dataset for item in runs}):
        own = [item for item in runs if item.key.dataset == dataset]
        own = _without_repeats(own, metric)
        names = sorted({item.key.target for item in own if item.key.target})
        table = wide_table(
            own,
            title=f"{_title('lodo')}, {dataset}: accuracy on the domain left out",
            columns=[(name, name) for name in names],
            metric=metric,
            ci95=ci95,
            averaged=names,
        )
        if published:
            trainers = {item.key.trainer for item in own}
            for entry in find_published(protocol="lodo", dataset=dataset):
                if entry.trainer in trainers:
                    table.notes.append(
                        f"published: {entry.trainer} {entry.accuracy[dataset]:.1f} on average over "
                        f"the domains. {entry.label}"
                    )
        if any(item.key.classifier.endswith(IN_DOMAIN) for item in own):
            table.notes.append(f"{IN_DOMAIN}: validation accuracy on the source domains instead.")
        table.notes += _swad_notes(own)
        tables.append(table)
    return tables


def _without_repeats(series: list[Series], metric: str) -> list[Series]:
    """Leave out a method's own number where it is that of a selection with a name, in every run."""
    methods: dict[Key, dict[str, dict[tuple, float]]] = {}
    for item in series:
        method = methods.setdefault(replace(item.key, classifier="", target=""), {})
        numbers = method.setdefault(item.key.classifier, {})
        for seed, value in item.metrics.get(metric, {}).items():
            numbers[item.key.target, seed] = round(value, 6)
    repeated = {
        key
        for key, method in methods.items()
        if any(
            numbers == method.get("test")
            for name, numbers in method.items()
            if name != "test" and not name.endswith(IN_DOMAIN)
        )
    }
    return [
        item
        for item in series
        if item.key.classifier != "test"
        or replace(item.key, classifier="", target="") not in repeated
    ]


def _swad_notes(series: Sequence[Series]) -> list[str]:
    """Which rule restarted SWAD's running mean, by method: the two give different numbers."""
    rules: dict[str, set[str]] = {}
    for record in (record for item in series for record in item.records):
        swad = record.details.get("metrics", {}).get("SWAD", {})
        if "reset" in swad:
            rules.setdefault(swad["reset"], set()).add(record.trainer)
    return [
        f"SWAD, {', '.join(sorted(trainers))}: segments by the rule {rule} (SWAD.RESET)."
        for rule, trainers in sorted(rules.items())
    ]


def as_text(tables: Sequence[Table]) -> str:
    """Tables for a terminal."""
    return "\n\n".join(_block(table, "simple") for table in tables)


def as_markdown(tables: Sequence[Table]) -> str:
    """Tables as GitHub Markdown."""
    return "\n\n".join(_block(table, "github") for table in tables)


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
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _block(table: Table, style: str) -> str:
    heading = f"**{table.title}**" if style == "github" else table.title
    align = ["right" if _is_numeric(table, i) else "left" for i in range(len(table.headers))]
    body = tabulate(
        table.rows, table.headers, tablefmt=style, colalign=align, disable_numparse=True
    )
    return "\n".join([heading, "", body, *([""] if table.notes else []), *table.notes])


def _is_numeric(table: Table, column: int) -> bool:
    values = [row[column] for row in table.rows if row[column]]
    return bool(values) and all(value[0].isdigit() for value in values)
