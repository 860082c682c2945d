"""What every table is made of: columns, footnotes, notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tools.results.published import Entry
from tools.results.series import Series
from tools.results.statistics import Cell

TEST_RULE_NOTE = "† chosen on test labels (rule test): for parity with an official code only."
PART_NOTE = "‡ over a part of the test images:"
SETTINGS_NOTE = "Runs with different settings are not seeds of one method: see the column settings."
PUBLISHED_NOTE = "Published numbers are accuracies: none stands beside {metric}."
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
HIDDEN_WHERE_EQUAL = ("protocol",)  # columns that a title does not name


@dataclass
class Table:
    """What is printed (`headers`, `rows`, `notes`) and the same at full precision (`data`)."""

    title: str
    headers: list[str]
    rows: list[list[str]]
    data: list[dict]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of_lines(
        cls,
        title: str,
        lines: Iterable[dict[str, str]],
        data: list[dict],
        *,
        keep: Sequence[str],
        notes: list[str],
    ) -> Table:
        """A table of lines (column -> text); the title takes the columns that are all the same.

        Args:
            keep: columns that stay in any case.
        """
        headers, rows, constants = _fold(lines, keep=keep)
        return cls(_titled(title, constants), headers, rows, data, notes)

    @property
    def quotes(self) -> bool:
        """Whether published numbers stand in it."""
        texts = [
            self.title,
            *self.headers,
            *self.notes,
            *(text for row in self.rows for text in row),
        ]
        return any("published" in text for text in texts)


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


def mark_notes(series: Sequence[Series]) -> list[str]:
    """What the marks behind numbers and the column settings mean, as far as there are any."""
    notes = [SETTINGS_NOTE] if any(item.key.settings for item in series) else []
    notes += [TEST_RULE_NOTE] if any(item.key.rule == "test" for item in series) else []
    runs = []
    records = {record.path: record for item in series for record in item.records}
    for record in records.values():
        if record.part_of_test:
            seen, count = record.part_of_test
            place = ", ".join(filter(None, (record.dataset, record.part)))
            runs.append(f"{record.trainer}, seed {record.seed}, {place}, {seen} of {count}")
    return notes + ([f"{PART_NOTE} {'; '.join(runs)}."] if runs else [])


def seeds_text(cells: Iterable[Cell]) -> str:
    """How many seeds the cells of a row rest on: `3`, or `1-3` where they differ."""
    counts = sorted({len(cell.seeds) for cell in cells})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def number(value: float | None) -> str:
    """Two decimals, or nothing."""
    return "" if value is None else f"{value:.2f}"


def published_labels(entry: Entry) -> dict[str, str]:
    """The columns that tell a published row from measured ones."""
    shots = "" if entry.shots is None else str(entry.shots)
    labels = {"trainer": entry.trainer, "recipe": "published", "backbone": entry.backbone}
    return labels | {"shots": shots, "rule": entry.rule, "classifier": entry.classifier}


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
        if name not in HIDDEN_WHERE_EQUAL
    ]
    return f"{title} ({', '.join(shown)})" if shown else title
