"""Tables of runs: one builder per kind of protocol, all returning `Table`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from tools.results.published import Entry, find_published
from tools.results.series import Series
from tools.results.statistics import Cell, mean

TEST_RULE_NOTE = "† chosen on test labels (rule test): for parity with an official code only."
PART_NOTE = "‡ over a part of the test images:"
PROTOCOL_TITLES = {
    "fewshot": "Few-shot and zero-shot",
    "zeroshot": "Few-shot and zero-shot",
    "testtime": "Test-time",
    "dg": "Domain generalization",
    "xd": "Cross-dataset transfer",
    "lodo": "Leave one domain out",
    "base2new": "Base-to-novel",
    "": "Logs of other programs",
}


COUNTS = ("shots", "seeds")  # columns whose values are numbers of something


@dataclass
class Table:
    """What is printed (`headers`, `rows`, `notes`) and the same at full precision (`data`)."""

    title: str
    headers: list[str]
    rows: list[list[str]]
    data: list[dict]
    notes: list[str] = field(default_factory=list)


class Footnotes:
    """Numbers the sources that a table quotes."""

    def __init__(self) -> None:
        self.labels: list[str] = []

    def mark(self, entry: Entry) -> str:
        """`[n]` of an entry's source line."""
        if entry.label not in self.labels:
            self.labels.append(entry.label)
        return f"[{self.labels.index(entry.label) + 1}]"

    def lines(self) -> list[str]:
        return [f"[{number}] {label}" for number, label in enumerate(self.labels, 1)]


def list_table(
    series: Sequence[Series],
    *,
    title: str,
    metric: str = "accuracy",
    ci95: bool = False,
    published: bool = False,
) -> Table:
    """One row per series, and an average over datasets where a method has several."""
    footnotes = Footnotes()
    columns = ["dataset", "target", "source", "trainer", "recipe", "backbone", "classifier"]
    lines, data = [], []
    for item in sorted(series, key=_dataset_first):
        cell = item.cell(metric, ci95=ci95)
        if cell is None:
            continue
        line = {name: getattr(item.key, name) for name in columns}
        line["classifier"] = "" if line["classifier"] == "test" else line["classifier"]
        line["shots"] = "all" if item.trains_on_all else str(item.key.shots)
        line["seeds"] = str(len(cell.seeds))
        line[metric] = cell.text()
        second = item.cell("macro_f1", ci95=ci95) if metric == "accuracy" else None
        line["macro-F1"] = second.text(is_marked=False) if second else ""
        line["rule"] = item.key.rule
        if published:
            line["published"] = _published_text(item, footnotes)
        lines.append(line)
        data.append(_flat(item, metric, cell))
    for line in _averages(series, metric):
        if published:
            line["published"] = _published_average(line, footnotes)
        data.append(dict(line))
        line.pop("protocol")
        line[metric] += " ‡" * line.pop("partial")
        lines.append(line)
    measured = [name for name in (metric, "macro-F1") if any(line.get(name) for line in lines)]
    headers, rows, constants = _fold(
        lines, keep=("dataset", "trainer", "shots", "seeds", *measured)
    )
    notes = mark_notes(series) + footnotes.lines()
    return Table(_titled(title, constants), headers, rows, data, notes)


def mark_notes(series: Sequence[Series]) -> list[str]:
    """What the marks behind numbers mean, as far as there are any."""
    notes = [TEST_RULE_NOTE] if any(item.key.rule == "test" for item in series) else []
    runs = []
    records = {record.path: record for item in series for record in item.records}
    for record in records.values():
        if record.part_of_test:
            seen, count = record.part_of_test
            place = ", ".join(filter(None, (record.dataset, record.part)))
            runs.append(f"{record.trainer}, seed {record.seed}, {place}, {seen} of {count}")
    return notes + ([f"{PART_NOTE} {'; '.join(runs)}."] if runs else [])


def wide_table(
    series: Sequence[Series],
    *,
    title: str,
    columns: Sequence[tuple[str, str]],
    metric: str = "accuracy",
    ci95: bool = False,
    published: Sequence[Entry] = (),
    averaged: Sequence[str] = (),
) -> Table:
    """One row per method, one column per dataset or domain, and the average of some columns.

    Args:
        series: rows to spread; a series' column is found by its dataset or target domain.
        columns: (name, header) in print order.
        published: entries shown as rows of their own.
        averaged: names of the columns that enter the average.
    """
    footnotes = Footnotes()
    methods = _cells_by_method(series, metric, ci95=ci95)
    lines, data = [], []
    for row, cells in methods.items():
        line = dict(zip(("trainer", "classifier", "recipe", "backbone", "shots", "rule"), row))
        line["shots"] = str(line["shots"] or "")
        line["seeds"] = seeds_text(cells.values())
        partial = any(cells[name].is_partial for name in averaged if name in cells)
        data.append(dict(line) | {name: cell.mean for name, cell in cells.items()})
        line |= {header: cells[name].text() if name in cells else "" for name, header in columns}
        present = [cells[name].mean for name in averaged if name in cells]
        complete = bool(averaged) and len(present) == len(averaged)
        line["average"] = f"{mean(present):.2f}" + " ‡" * partial if complete else ""
        if complete:
            data[-1]["average"] = mean(present)
        lines.append(line)
    lines += [_published_line(entry, columns, averaged, footnotes) for entry in published]
    keep = ("trainer", *(header for _, header in columns), "average")
    headers, rows, constants = _fold(lines, keep=keep)
    notes = mark_notes(series) + footnotes.lines()
    return Table(_titled(title, constants), headers, rows, data, notes)


def _published_line(
    entry: Entry,
    columns: Sequence[tuple[str, str]],
    averaged: Sequence[str],
    footnotes: Footnotes,
) -> dict[str, str]:
    """A published row of a wide table."""
    line = {"trainer": f"{entry.trainer} {footnotes.mark(entry)}", "backbone": entry.backbone}
    line |= {"recipe": "published", "shots": "" if entry.shots is None else str(entry.shots)}
    line |= {"rule": entry.rule, "classifier": entry.classifier}
    line |= {head: _number(entry.accuracy.get(name)) for name, head in columns}
    present = [entry.accuracy[name] for name in averaged if name in entry.accuracy]
    if averaged and len(present) == len(averaged):
        line["average"] = f"{mean(present):.2f}"
    return line


def _cells_by_method(
    series: Sequence[Series], metric: str, *, ci95: bool
) -> dict[tuple, dict[str, Cell]]:
    """Method labels -> column name (target domain or data set) -> cell."""
    methods: dict[tuple, dict[str, Cell]] = {}
    for item in series:
        key, cell = item.key, item.cell(metric, ci95=ci95)
        if cell is not None:
            label = "" if key.classifier == "test" else key.classifier
            row = (key.trainer, label, key.recipe, key.backbone, key.shots, key.rule)
            methods.setdefault(row, {})[key.target or key.dataset] = cell
    return methods


def _published_text(item: Series, footnotes: Footnotes) -> str:
    key = item.key
    protocol = "zeroshot" if key.trainer.startswith("Zeroshot") else key.protocol
    entries = find_published(
        protocol=protocol,
        trainer=key.trainer,
        backbone=key.backbone,
        recipe=key.recipe,
        shots=None if protocol == "zeroshot" else key.shots,
        classifier=key.classifier,
        dataset=key.dataset,
    )
    shown = (
        f"{entry.accuracy[key.dataset]:.2f}{' †' if entry.rule == 'test' else ''} "
        f"{footnotes.mark(entry)}"
        for entry in entries
        if key.dataset in entry.accuracy and (key.classifier == "test" or entry.classifier)
    )
    return "; ".join(shown)


def _published_average(line: dict, footnotes: Footnotes) -> str:
    """Published means over the eleven data sets, for a row that averages as many."""
    if line["dataset"] != "average of 11":
        return ""
    protocol = "zeroshot" if line["trainer"].startswith("Zeroshot") else line["protocol"]
    shots = None if protocol in ("zeroshot", "testtime") else int(line["shots"])
    entries = find_published(
        protocol=protocol, trainer=line["trainer"], backbone=line["backbone"], shots=shots
    )
    shown = []
    for entry in entries:
        value = entry.accuracy.get("average", entry.average if len(entry.accuracy) == 11 else None)
        if isinstance(value, (int, float)):
            mark = " †" if entry.rule == "test" else ""
            shown.append(f"{value:.2f}{mark} {footnotes.mark(entry)}")
    return "; ".join(shown)


def _dataset_first(item: Series) -> tuple:
    return (item.key.dataset, item.key.shots > 0, not item.key.trainer.startswith("Zeroshot"))


def _averages(series: Sequence[Series], metric: str) -> list[dict]:
    """Rows with the mean over datasets, for methods that have more than one."""
    methods: dict[tuple, dict[str, Cell]] = {}
    for item in series:
        cell, key = item.cell(metric), item.key
        if cell is not None and key.classifier == "test":
            row = (key.protocol, key.trainer, key.recipe, key.backbone, key.shots, key.rule)
            methods.setdefault(row, {})[key.dataset] = cell
    names = ("protocol", "trainer", "recipe", "backbone", "shots", "rule")
    return [
        dict(zip(names, map(str, row)))
        | {
            "dataset": f"average of {len(cells)}",
            metric: f"{mean([cell.mean for cell in cells.values()]):.2f}",
            "partial": any(cell.is_partial for cell in cells.values()),
        }
        for row, cells in methods.items()
        if len(cells) > 1
    ]


def _flat(item: Series, metric: str, cell: Cell) -> dict:
    return asdict(item.key) | {
        "metric": metric,
        "mean": cell.mean,
        "std": cell.std,
        "partial": cell.is_partial,
        "seeds": list(cell.seeds),
        "values": [item.metrics[metric][seed] for seed in cell.seeds],
        "paths": [str(record.path) for record in item.records],
    }


def _fold(
    lines: Iterable[dict], *, keep: Sequence[str]
) -> tuple[list[str], list[list[str]], dict[str, str]]:
    """Headers, rows and the columns left out because every row has the same value."""
    lines = list(lines)
    names: list[str] = []
    for line in lines:
        names += [name for name in line if name not in names]
    headers, constants = [], {}
    for name in names:
        values = {str(line.get(name, "")) for line in lines}
        if name in keep or len(values) > 1:
            headers.append(name)
        elif values != {""}:
            constants[name] = values.pop()
    rows = [[str(line.get(name, "")) for name in headers] for line in lines]
    return headers, rows, constants


def _titled(title: str, constants: dict[str, str]) -> str:
    shown = [
        f"{value} {name.removesuffix('s') if value == '1' else name}"
        if name in COUNTS
        else f"{name} {value}"
        for name, value in constants.items()
        if name != "protocol"
    ]
    return f"{title} ({', '.join(shown)})" if shown else title


def seeds_text(cells: Iterable[Cell]) -> str:
    """How many seeds the cells of a row rest on: `3`, or `1-3` where they differ."""
    counts = sorted({len(cell.seeds) for cell in cells})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
