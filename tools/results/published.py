"""Published numbers: `configs/published/*.yaml`, one list of entries per trainer.

An entry states `source` and `confidence` (free text), what was run (`trainer`, `protocol`,
`backbone`, and where they matter `shots`, `classifier`, `variant`, and in `recipe` the recipe's
name, with the wildcards of file names), the `rule` that chose the numbers where it is not `last`,
and the numbers in percent by dataset config name: `accuracy`, or `base` and `new`. In lodo,
`backbone` is the student and a number is the mean over all domains.

Optional: `note`, and two means as printed in the source: `average` over every set of the row, and
`ood_average` over the row without ImageNet (dg, xd: the targets). A row of which only the mean
over the eleven few-shot sets is known has the one number `average` in place of sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from dassl.config.yaml_files import read_yaml
from tools.protocols.sets import FEWSHOT_SETS, SOURCE

JOINED = " + "  # between the recipes of one method
PUBLISHED_DIR = Path(__file__).resolve().parents[2] / "configs" / "published"


@dataclass(frozen=True)
class Entry:
    """One row of a publication; empty strings and None match everything."""

    source: str
    confidence: str
    trainer: str
    protocol: str
    backbone: str
    recipe: str = ""
    shots: int | None = None
    classifier: str = ""
    variant: str = ""
    rule: str = "last"
    accuracy: dict[str, float] = field(default_factory=dict)
    base: dict[str, float] = field(default_factory=dict)
    new: dict[str, float] = field(default_factory=dict)
    average: dict[str, float] | float | None = None
    ood_average: float | None = None
    note: str = ""

    @property
    def sets(self) -> frozenset[str]:
        """The datasets behind the numbers; the eleven where only their mean is known."""
        return frozenset({*self.accuracy, *self.base} - {"average"}) or frozenset(FEWSHOT_SETS)

    def mean_over(self, names: frozenset[str]) -> float | None:
        """The printed mean over exactly these datasets, or None."""
        printed = self.accuracy.get("average", self.average)
        if names == self.sets and isinstance(printed, (int, float)):
            return printed
        return self.ood_average if names == self.sets - {SOURCE} != self.sets else None

    def halves_over(self, names: frozenset[str]) -> tuple[float, float, float] | None:
        """The printed means of base and new and their H over exactly these datasets, or None."""
        if names != self.sets or not isinstance(self.average, dict):
            return None
        return self.average["base"], self.average["new"], self.average["H"]

    @property
    def label(self) -> str:
        """Source, variant, confidence and note in one line."""
        variant = f" ({self.variant})" if self.variant else ""
        note = f" {self.note}" if self.note else ""
        return f"{self.source}{variant}; confidence: {self.confidence}.{note}"


KEYS = frozenset(item.name for item in fields(Entry))
REQUIRED = ("source", "confidence", "trainer", "protocol", "backbone")


@cache
def load_published(directory: Path = PUBLISHED_DIR) -> tuple[Entry, ...]:
    """All entries, in file and list order.

    Raises:
        ValueError: an entry has an unknown key or lacks a required one, or numbers.
    """
    entries = []
    for path in sorted(directory.glob("*.yaml")):
        for index, item in enumerate(read_yaml(path) or []):
            unknown = sorted(set(item) - KEYS)
            missing = [k for k in REQUIRED if k not in item]
            if not (item.get("accuracy") or (item.get("base") and item.get("new"))):
                missing.append("accuracy, or base and new")
            if unknown or missing:
                problem = f"unknown: {unknown}" if unknown else f"missing: {missing}"
                raise ValueError(f"{path}, entry {index}: {problem}. Known: {sorted(KEYS)}.")
            entries.append(Entry(**item))
    return tuple(entries)


def find_published(
    *,
    protocol: str,
    trainer: str = "",
    backbone: str = "",
    recipe: str = "",
    shots: int | None = None,
    classifier: str = "",
    dataset: str = "",
) -> list[Entry]:
    """Entries that speak of this run; an argument left empty does not restrict.

    Args:
        protocol: as in `Entry`; zero-shot classifiers are `zeroshot` beside test-time methods, too.
        trainer: registered name.
        backbone: the run's; in lodo the student, also by its short name.
        recipe: the run's, or several joined by `JOINED`: all must fit.
        shots: images per class.
        classifier: `test` is the run's own number, which entries leave empty.
        dataset: config name.
    """
    backbone = _full_student(backbone) if protocol == "lodo" else backbone
    recipes = recipe.split(JOINED) if recipe else []

    def fits(entry: Entry) -> bool:
        return (
            entry.protocol == protocol
            and (not trainer or entry.trainer == trainer)
            and (not backbone or entry.backbone == backbone)
            and (not entry.recipe or all(fnmatchcase(name, entry.recipe) for name in recipes))
            and (shots is None or entry.shots is None or entry.shots == shots)
            and (not classifier or (entry.classifier or "test") == classifier)
            and (not dataset or dataset in {**entry.accuracy, **entry.base})
        )

    return [entry for entry in load_published() if fits(entry)]


def _full_student(name: str) -> str:
    from dassl.modeling.networks import SHORT_NAMES  # imports torch: only where it is needed

    return SHORT_NAMES.get(name, name)
