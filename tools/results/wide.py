"""Tables with a column per dataset or domain: a row per method, and the mean of some columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tools.results.published import Entry
from tools.results.series import Series, by_method
from tools.results.statistics import mean
from tools.results.tables import (
    Footnotes,
    Table,
    mark_notes,
    number,
    published_labels,
    seeds_text,
)


def wide_table(
    series: Sequence[Series],
    *,
    title: str,
    columns: Sequence[tuple[str, str]],
    metric: str = "accuracy",
    ci95: bool = False,
    published: Sequence[Entry] = (),
    averages: Mapping[str, Sequence[str]],
) -> Table:
    """One row per method, one column per dataset or domain, and averages over columns.

    Args:
        series: rows to spread; a series' column is found by its target domain or dataset.
        columns: (name, header) in print order.
        published: entries shown as rows of their own, averaged over the same columns.
        averages: header -> names of the columns that enter; a row that lacks one has no average.
    """
    footnotes = Footnotes()
    lines, data = [], []
    for key, members in by_method([item for item in series if item.cell(metric)]).items():
        cells = {
            item.key.target or item.key.dataset: cell
            for item in members
            if (cell := item.cell(metric, ci95=ci95))
        }
        labels = key.labels() | {"shots": str(key.shots or "")}
        labels["seeds"] = seeds_text(cells.values())
        shown = {header: cells[name].text() if name in cells else "" for name, header in columns}
        numbers = {name: cell.mean for name, cell in cells.items()}
        shown |= dict.fromkeys(averages, "")
        for header, names in averages.items():
            present = [cells[name] for name in names if name in cells]
            if len(present) == len(names):
                numbers[header] = mean([cell.mean for cell in present])
                partial = any(cell.is_partial for cell in present)
                shown[header] = number(numbers[header]) + " ‡" * partial
        lines.append(labels | shown)
        data.append(labels | numbers)
    averages = {head: averages[head] for head in averages if any(head in row for row in data)}
    for entry in published:
        labels, numbers = published_labels(entry), _published_numbers(entry, averages)
        labels["trainer"] += f" {footnotes.mark(entry)}"
        heads = [*columns, *zip(averages, averages)]
        lines.append(labels | {header: number(numbers.get(name)) for name, header in heads})
        data.append(published_labels(entry) | numbers | {"source": entry.label})
    keep = ("trainer", *(header for _, header in columns), *averages)
    notes = mark_notes(series) + footnotes.lines()
    return Table.of_lines(title, lines, data, keep=keep, notes=notes)


def _published_numbers(entry: Entry, averages: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The numbers of an entry, and their means over columns of which it has all."""
    numbers = {name: value for name, value in entry.accuracy.items() if name != "average"}
    means = {}
    for header, names in averages.items():
        if set(names) <= set(numbers):
            printed = entry.mean_over(frozenset(names))
            own = mean([numbers[name] for name in names])
            means[header] = own if printed is None else printed
    return numbers | means
