"""The base-to-novel table: Base, Novel and their harmonic mean per dataset and on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tools.results.published import Entry, find_published
from tools.results.series import Series
from tools.results.statistics import Cell, harmonic_mean, mean
from tools.results.tables import Footnotes, Table, _fold, _titled, mark_notes, seeds_text


@dataclass
class _Method:
    """Base and new cells of one method by dataset, and H per seed where both halves exist."""

    halves: dict[str, dict[str, Series]] = field(default_factory=dict)

    def complete(self) -> list[str]:
        return [name for name, parts in self.halves.items() if {"base", "new"} <= set(parts)]


def base2new_table(
    series: Sequence[Series],
    *,
    title: str = "Base-to-novel",
    metric: str = "accuracy",
    ci95: bool = False,
    published: bool = False,
) -> Table:
    """Rows per dataset and method; the average row takes H of the averaged halves.

    H of a dataset comes from its seed-averaged halves, its spread from the H of every seed.
    """
    methods: dict[tuple, _Method] = {}
    for item in series:
        key = item.key
        if key.part in ("base", "new") and item.cell(metric) is not None:
            label = "" if key.classifier == "test" else key.classifier
            row = (key.trainer, label, key.recipe, key.backbone, key.shots, key.rule)
            halves = methods.setdefault(row, _Method()).halves
            halves.setdefault(key.dataset, {})[key.part] = item
    footnotes = Footnotes()
    lines, data = [], []
    for dataset in sorted({name for method in methods.values() for name in method.halves}):
        for row, method in methods.items():
            if dataset in method.halves:
                line, numbers = _dataset_line(method.halves[dataset], metric, ci95=ci95)
                lines.append({"dataset": dataset} | _labels(row) | line)
                data.append({"dataset": dataset} | _labels(row) | numbers)
        if published:
            lines += _published_lines(dataset, methods, footnotes)
    for row, method in methods.items():
        if len(method.complete()) > 1:
            line, numbers = _average_line(method, metric)
            lines.append(_labels(row) | line)
            data.append(_labels(row) | line | numbers)
    if published and any(len(method.complete()) > 1 for method in methods.values()):
        lines += _published_lines("average", methods, footnotes)
    headers, rows, constants = _fold(lines, keep=("dataset", "trainer", "Base", "Novel", "H"))
    notes = mark_notes(series) + footnotes.lines()
    return Table(_titled(title, constants), headers, rows, data, notes)


def _labels(row: tuple) -> dict[str, str]:
    names = ("trainer", "classifier", "recipe", "backbone", "shots", "rule")
    return dict(zip(names, map(str, row)))


def _dataset_line(
    halves: dict[str, Series], metric: str, *, ci95: bool
) -> tuple[dict[str, str], dict[str, float | None]]:
    cells: dict[str, Cell] = {
        name: halves[part].cell(metric, ci95=ci95)
        for part, name in (("base", "Base"), ("new", "Novel"))
        if part in halves
    }
    if len(cells) == 2:
        base, new = (halves[part].metrics[metric] for part in ("base", "new"))
        common = sorted(set(base) & set(new))
        per_seed = {seed: harmonic_mean(base[seed], new[seed]) for seed in common}
        rule = cells["Base"].rule
        spread = Cell.over(per_seed, rule=rule, ci95=ci95).std if per_seed else None
        center = harmonic_mean(cells["Base"].mean, cells["Novel"].mean)
        partial = any(cell.is_partial for cell in cells.values())
        cells["H"] = Cell(center, spread, tuple(common), rule, partial)
    line = {name: cell.text() for name, cell in cells.items()}
    line["seeds"] = seeds_text(cells.values())
    numbers: dict[str, float | None] = {}
    for name, cell in cells.items():
        numbers |= {name: cell.mean, f"{name}_std": cell.std}
    return line, numbers


def _average_line(method: _Method, metric: str) -> tuple[dict[str, str], dict[str, float]]:
    """Means over the data sets that have both halves, and H of these means."""
    names = method.complete()
    halves = [[method.halves[n][part].cell(metric) for n in names] for part in ("base", "new")]
    base, new = (mean([cell.mean for cell in cells]) for cells in halves)
    partial = [any(cell.is_partial for cell in cells) for cells in halves]
    numbers = {"Base": base, "Novel": new, "H": harmonic_mean(base, new)}
    marks = [" ‡" * is_partial for is_partial in (*partial, any(partial))]
    shown = {name: f"{numbers[name]:.2f}{mark}" for name, mark in zip(numbers, marks)}
    return {"dataset": f"average of {len(names)}"} | shown, numbers


def _published_lines(
    dataset: str, methods: dict[tuple, _Method], footnotes: Footnotes
) -> list[dict[str, str]]:
    """Rows of the measured trainers' publications for one dataset (or the average)."""
    entries: list[Entry] = []
    for trainer, _, _, backbone, shots, _ in methods:
        shots = None if trainer.startswith("Zeroshot") else shots
        for entry in find_published(
            protocol="base2new", trainer=trainer, backbone=backbone, shots=shots
        ):
            if dataset in entry.base and entry not in entries:
                entries.append(entry)
    lines = []
    for entry in entries:
        base, new = entry.base[dataset], entry.new[dataset]
        line = {"dataset": dataset, "trainer": f"{entry.trainer} {footnotes.mark(entry)}"}
        line |= {"recipe": "published", "backbone": entry.backbone, "rule": entry.rule}
        line |= {"shots": "" if entry.shots is None else str(entry.shots)}
        line |= {"Base": f"{base:.2f}", "Novel": f"{new:.2f}"}
        lines.append(line | {"H": f"{harmonic_mean(base, new):.2f}"})
    return lines
