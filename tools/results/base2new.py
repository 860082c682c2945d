"""The base-to-novel table: Base, Novel and their harmonic mean per dataset and on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tools.results.averages import average_of
from tools.results.published import Entry, find_published
from tools.results.series import Key, Series, by_method
from tools.results.statistics import Cell, harmonic_mean, mean
from tools.results.tables import (
    Footnotes,
    Table,
    mark_notes,
    number,
    published_labels,
    seeds_text,
)

ACCURACY = "accuracy"
H_NOTE = "H is the harmonic mean of accuracies: none is made of {metric}."
COLUMNS = ("Base", "Novel", "H")


@dataclass
class _Halves:
    """One method on one dataset: a series of the base classes, one of the new ones, or both."""

    base: Series | None = None
    new: Series | None = None

    @property
    def both(self) -> tuple[Series, ...]:
        """Base and new, or nothing where one is missing."""
        return (self.base, self.new) if self.base and self.new else ()

    def common_seeds(self, metric: str) -> list[int]:
        """Seeds of both halves."""
        seeds = [{*half.metrics[metric]} for half in self.both]
        return sorted(set.intersection(*seeds)) if seeds else []

    def cells(self, metric: str, *, ci95: bool = False) -> dict[str, Cell]:
        """Column -> cell; H of seed-averaged halves, its spread from the H of every seed.

        H rests on the seeds that both halves have; without one there is none.
        """
        cells = {}
        for name, half in {"Base": self.base, "Novel": self.new}.items():
            if half and (cell := half.cell(metric, ci95=ci95)):
                cells[name] = cell
        seeds = self.common_seeds(metric)
        if metric == ACCURACY and seeds:
            base, new = (half.metrics[metric] for half in self.both)
            per_seed = {seed: harmonic_mean(base[seed], new[seed]) for seed in seeds}
            rule = self.both[0].key.rule
            partial = any(half.is_partial for half in self.both)
            spread = Cell.over(per_seed, rule=rule, ci95=ci95).std
            center = harmonic_mean(*self.means(metric))
            cells["H"] = Cell(center, spread, tuple(seeds), rule, partial)
        return cells

    def means(self, metric: str) -> tuple[float, float]:
        """Base and new, each the mean over the common seeds."""
        seeds = self.common_seeds(metric)
        base, new = (half.metrics[metric] for half in self.both)
        return mean([base[seed] for seed in seeds]), mean([new[seed] for seed in seeds])

    def seeds_note(self, metric: str) -> str:
        """What H leaves out where the halves have other seeds, or ""."""
        if metric != ACCURACY or not self.both:
            return ""
        base, new = (sorted(half.metrics[metric]) for half in self.both)
        if base == new:
            return ""
        common = self.common_seeds(metric)
        what = f"H rests on the common seeds {_listed(common)}" if common else "no H"
        key = self.both[0].key
        return (
            f"{key.dataset}, {key.trainer}: {what}; base has the seeds {_listed(base)}, "
            f"new {_listed(new)}."
        )


Methods = dict[Key, dict[str, _Halves]]  # method -> dataset -> halves


def base2new_table(
    series: Sequence[Series],
    *,
    title: str = "Base-to-novel",
    metric: str = ACCURACY,
    ci95: bool = False,
    published: bool = False,
) -> Table:
    """Rows per dataset and method; the average row takes H of the averaged halves."""
    series = [item for item in series if item.key.part in ("base", "new") and item.cell(metric)]
    methods = _methods(series)
    footnotes = Footnotes()
    lines: list[dict] = []
    data: list[dict] = []
    notes: list[str] = []
    for dataset in sorted({name for method in methods.values() for name in method}):
        for key, method in methods.items():
            if dataset in method:
                cells = method[dataset].cells(metric, ci95=ci95)
                _add({"dataset": dataset} | key.labels(), cells, lines, data)
                notes.append(method[dataset].seeds_note(metric))
        if published:
            _add_published(dataset, frozenset({dataset}), methods, footnotes, lines, data)
    complete = {key: _complete(method, metric) for key, method in methods.items()}
    for key, names in complete.items():
        if len(names) > 1:
            label = {"dataset": average_of(names)} | key.labels()
            _add_average(label, [methods[key][name] for name in names], metric, lines, data)
    if published:
        several = {frozenset(some) for some in complete.values() if len(some) > 1}
        for some in sorted(several, key=sorted):
            asked = {key: methods[key] for key in methods if frozenset(complete[key]) == some}
            _add_published(average_of(some), some, asked, footnotes, lines, data)
    if metric != ACCURACY:
        notes.append(H_NOTE.format(metric=metric))
    notes = [*mark_notes(series), *dict.fromkeys(filter(None, notes)), *footnotes.lines()]
    keep = ("dataset", "trainer", *(name for name in COLUMNS if name != "H" or metric == ACCURACY))
    return Table.of_lines(title, lines, data, keep=keep, notes=notes)


def _methods(series: Sequence[Series]) -> Methods:
    methods: Methods = {}
    for key, members in by_method(series).items():
        method = methods.setdefault(key, {})
        for item in members:
            setattr(method.setdefault(item.key.dataset, _Halves()), item.key.part, item)
    return methods


def _complete(method: dict[str, _Halves], metric: str) -> list[str]:
    """Datasets of which a method has both halves of at least one seed."""
    return sorted(name for name, halves in method.items() if halves.common_seeds(metric))


def _add(labels: dict[str, str], cells: dict[str, Cell], lines: list, data: list) -> None:
    shown = {name: cell.text() for name, cell in cells.items()}
    lines.append(labels | shown | {"seeds": seeds_text(cells.values())})
    numbers: dict[str, object] = {}
    for name, cell in cells.items():
        numbers |= {name: cell.mean, f"{name}_std": cell.std, f"{name}_seeds": list(cell.seeds)}
    data.append(labels | numbers)


def _add_average(
    labels: dict[str, str], halves: Sequence[_Halves], metric: str, lines: list, data: list
) -> None:
    """Means over the datasets that have both halves, over common seeds, and H of these means."""
    pairs = [half.means(metric) for half in halves]
    numbers = {"Base": mean([base for base, _ in pairs]), "Novel": mean([new for _, new in pairs])}
    partial = [any(one.is_partial for one in side) for side in zip(*(half.both for half in halves))]
    if metric == ACCURACY:
        numbers["H"] = harmonic_mean(numbers["Base"], numbers["Novel"])
        partial.append(any(partial))
    marks = [" ‡" * is_partial for is_partial in partial]
    lines.append(labels | {n: f"{v:.2f}{m}" for (n, v), m in zip(numbers.items(), marks)})
    data.append(labels | numbers)


def _add_published(
    label: str,
    names: frozenset[str],
    methods: Methods,
    footnotes: Footnotes,
    lines: list,
    data: list,
) -> None:
    """Rows of the measured methods' publications for one dataset, or for the mean over all."""
    entries: list[Entry] = []
    for key in methods:
        shots = None if key.trainer.startswith("Zeroshot") else key.shots
        found = find_published(
            protocol="base2new",
            trainer=key.trainer,
            backbone=key.backbone,
            recipe=key.recipe,
            shots=shots,
        )
        entries += [entry for entry in found if entry not in entries]
    for entry in entries:
        halves = _published_halves(entry, names)
        if halves is None:
            continue
        labels, numbers = published_labels(entry), dict(zip(COLUMNS, halves))
        marked = labels | {"trainer": f"{entry.trainer} {footnotes.mark(entry)}"}
        shown = {name: number(value) for name, value in numbers.items()}
        lines.append({"dataset": label} | marked | shown)
        data.append({"dataset": label} | labels | numbers | {"source": entry.label})


def _published_halves(entry: Entry, names: frozenset[str]) -> tuple[float, float, float] | None:
    if len(names) != 1:
        return entry.halves_over(names)
    (name,) = names
    if name not in entry.base:
        return None
    base, new = entry.base[name], entry.new[name]
    return base, new, harmonic_mean(base, new)


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
