"""The tables of cross-dataset transfer and domain generalization: a source and its targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tools.protocols.sets import SOURCE, TRANSFER_TARGETS
from tools.results.published import Entry, find_published
from tools.results.records import load_records
from tools.results.series import Series, group
from tools.results.tables import PROTOCOL_TITLES, Table
from tools.results.wide import wide_table

TRANSFER_PROTOCOLS = ("dg", "xd")
COLUMN_ORDER = [name for targets in TRANSFER_TARGETS.values() for name in targets]
OVER_TARGETS = {"dg": "OOD average", "xd": "average"}  # header of the mean without the source
SHORT_NAMES = {
    "imagenetv2": "-V2",
    "imagenet_sketch": "-Sketch",
    "imagenet_a": "-A",
    "imagenet_r": "-R",
}


def transfer_tables(
    protocol: str, series: Sequence[Series], *, metric: str, ci95: bool, published: bool
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
        rows = [
            replace(item, key=replace(item.key, protocol=protocol, source=source))
            for item in (*zeroshot, *_source_series(own), *own)
        ]  # one table, hence one protocol and source: what is left tells methods apart
        shown = [source, *names] if source else names
        table = wide_table(
            rows,
            title=f"{PROTOCOL_TITLES[protocol]}, trained on {source or 'nothing'}",
            columns=[(name, SHORT_NAMES.get(name, name)) for name in shown],
            metric=metric,
            ci95=ci95,
            published=_entries(protocol, rows) if published and source == SOURCE else [],
            averages=_averages(protocol, source, names),
        )
        if source:
            table.notes.insert(0, _average_note(protocol, source, len(names)))
        tables.append(table)
    return tables


def _average_note(protocol: str, source: str, present: int) -> str:
    count = len(TRANSFER_TARGETS.get((protocol, source), ()))
    over = f"{present} of {count}" if present < count else "the"
    return f"{OVER_TARGETS[protocol]}: over {over} targets, without {source}."


def _averages(protocol: str, source: str, targets: Sequence[str]) -> dict[str, Sequence[str]]:
    """Under distribution shift papers print two means: over all columns, and over the targets."""
    over_all = {"average": [source, *targets]} if protocol == "dg" and source else {}
    return over_all | {OVER_TARGETS[protocol]: targets}


def _entries(protocol: str, rows: Sequence[Series]) -> list[Entry]:
    """Published rows of the measured methods, with their backbone, recipe and shots."""
    entries: list[Entry] = []
    for key in dict.fromkeys(item.key.method for item in rows):
        found = find_published(
            protocol=protocol,
            trainer=key.trainer,
            backbone=key.backbone,
            recipe=key.recipe,
            shots=None if key.trainer.startswith("Zeroshot") else key.shots,
        )
        entries += [entry for entry in found if entry not in entries]
    return entries


def _column_order(dataset: str) -> tuple:
    """The papers' order where it is known, then by name."""
    return (COLUMN_ORDER.index(dataset) if dataset in COLUMN_ORDER else len(COLUMN_ORDER), dataset)


def _source_series(targets: Sequence[Series]) -> list[Series]:
    """The runs that trained the evaluated models, found by their `--model-dir`."""
    folders = {record.model_folder for item in targets for record in item.records}
    records = []
    for folder in sorted(folder for folder in folders if folder is not None):
        try:
            records += load_records([folder]).records
        except FileNotFoundError:
            continue  # the source run was moved or deleted: its column stays empty
    return group(records)
