"""The table of few-shot, zero-shot and test-time runs: a row per method and dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from tools.results.averages import averaged_sets
from tools.results.published import Entry, find_published
from tools.results.series import Key, Series, by_method
from tools.results.statistics import mean
from tools.results.tables import Footnotes, Table, mark_notes

COLUMNS = ("dataset", "target", "source", "trainer", "recipe", "settings", "backbone", "classifier")


def list_table(
    series: Sequence[Series],
    *,
    title: str,
    metric: str = "accuracy",
    ci95: bool = False,
    published: bool = False,
) -> Table:
    """One row per series, and the averages over datasets where a method has several."""
    footnotes = Footnotes()
    lines, data = [], []
    series = sorted(series, key=_dataset_first)
    for item in series:
        cell = item.cell(metric, ci95=ci95)
        if cell is None:
            continue
        line = _labels(item) | {"seeds": str(len(cell.seeds)), metric: cell.text()}
        line["chance"] = _chance(item) if metric == "accuracy" else ""
        second = item.cell("macro_f1", ci95=ci95) if metric == "accuracy" else None
        line["macro-F1"] = second.text(is_marked=False) if second else ""
        line["rule"] = item.key.rule
        numbers: dict[str, Any] = {"mean": cell.mean, "std": cell.std, "partial": cell.is_partial}
        numbers |= {"seeds": list(cell.seeds)}
        numbers["values"] = [item.metrics[metric][seed] for seed in cell.seeds]
        numbers["paths"] = [str(record.path) for record in item.records]
        if published:
            entries = _published_of(item.key, partial(_at, key=item.key))
            _quote(entries, line, numbers, footnotes)
        lines.append(line)
        data.append(asdict(item.key) | {"metric": metric} | numbers)
    for line, numbers, entries in _averages(series, metric):
        if published:
            _quote(entries, line, numbers, footnotes)
        lines.append(line)
        data.append(numbers)
    measured = [
        name for name in (metric, "chance", "macro-F1") if any(line.get(name) for line in lines)
    ]
    keep = ("dataset", "trainer", "shots", "seeds", *measured)
    notes = mark_notes(series) + footnotes.lines()
    return Table.of_lines(title, lines, data, keep=keep, notes=notes)


def _dataset_first(item: Series) -> tuple:
    return (item.key.dataset, item.key.shots > 0, not item.key.trainer.startswith("Zeroshot"))


def _chance(item: Series) -> str:
    """Accuracy of guessing, which runs on images of one's own record."""
    chance = item.records[0].details.get("chance")
    return f"{chance:.2f}" if isinstance(chance, (int, float)) else ""


def _labels(item: Series) -> dict[str, str]:
    line = {name: getattr(item.key, name) for name in COLUMNS}
    line["classifier"] = "" if item.key.classifier == "test" else item.key.classifier
    line["shots"] = "all" if item.trains_on_all else str(item.key.shots)
    return line


def _averages(
    series: Sequence[Series], metric: str
) -> Iterator[tuple[dict[str, str], dict, list[tuple[Entry, float]]]]:
    """Line, numbers and published means of each average: over datasets, of one method."""
    for key, members in by_method([item for item in series if item.cell(metric)]).items():
        by_dataset = {item.key.dataset: item for item in members}
        for label, names in averaged_sets(by_dataset):
            some = [by_dataset[name] for name in sorted(names)]
            means = [cell.mean for item in some if (cell := item.cell(metric))]
            is_partial = any(item.is_partial for item in some)
            row = Series(replace(key, dataset=label), {}, some[0].records)
            line = _labels(row) | {"rule": key.rule}
            line[metric] = f"{mean(means):.2f}" + " ‡" * is_partial
            numbers = asdict(row.key) | {"metric": metric, "mean": mean(means), "std": None}
            numbers |= {"partial": is_partial, "seeds": [], "values": means, "paths": []}
            yield line, numbers, _published_of(key, partial(_over, names=names))


def _at(entry: Entry, key: Key) -> float | None:
    return entry.accuracy.get(key.dataset)


def _over(entry: Entry, names: frozenset[str]) -> float | None:
    return entry.mean_over(names)


def _published_of(
    key: Key, number_of: Callable[[Entry], float | None]
) -> list[tuple[Entry, float]]:
    """Entries about a method, with the number that each has for this row.

    Of a model that was trained on another dataset nothing is published as few-shot accuracy.
    """
    if key.source:
        return []
    protocol = "zeroshot" if key.trainer.startswith("Zeroshot") else key.protocol
    entries = find_published(
        protocol=protocol,
        trainer=key.trainer,
        backbone=key.backbone,
        recipe=key.recipe,
        shots=None if protocol == "zeroshot" else key.shots,
        classifier=key.classifier,
    )
    numbers = ((entry, number_of(entry)) for entry in entries)
    return [(entry, value) for entry, value in numbers if value is not None]


def _quote(
    entries: Sequence[tuple[Entry, float]], line: dict, numbers: dict, footnotes: Footnotes
) -> None:
    """Put published numbers into a row, as text with footnotes and in full."""
    line["published"] = "; ".join(
        f"{value:.2f}{' †' if entry.rule == 'test' else ''} {footnotes.mark(entry)}"
        for entry, value in entries
    )
    numbers["published"] = [value for _, value in entries]
    numbers["published_sources"] = [entry.label for entry, _ in entries]
