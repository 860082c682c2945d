"""Published numbers: `configs/published/*.yaml`, one list of entries per trainer.

An entry states `source` and `confidence` (free text), what was run (`trainer`, `protocol`, and
where they matter `backbone`, `shots`, `classifier`, `variant`, and in `recipe` a part of the
recipe's name), the `rule` that chose the numbers where it is not `last`, and the numbers in percent
by dataset config name: `accuracy`, or `base` and `new`. Optional: `average` (as printed in the
source) and `note`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path

import yaml

FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser where it is built in
PUBLISHED_DIR = Path(__file__).resolve().parents[2] / "configs" / "published"


@dataclass(frozen=True)
class Entry:
    """One row of a publication; empty strings and None match everything."""

    source: str
    confidence: str
    trainer: str
    protocol: str
    backbone: str = ""
    recipe: str = ""
    shots: int | None = None
    classifier: str = ""
    variant: str = ""
    rule: str = "last"
    accuracy: dict[str, float] = field(default_factory=dict)
    base: dict[str, float] = field(default_factory=dict)
    new: dict[str, float] = field(default_factory=dict)
    average: dict[str, float] | float | None = None
    note: str = ""

    @property
    def label(self) -> str:
        """Source, variant, confidence and note in one line."""
        variant = f" ({self.variant})" if self.variant else ""
        note = f" {self.note}" if self.note else ""
        return f"{self.source}{variant}; confidence: {self.confidence}.{note}"


KEYS = frozenset(item.name for item in fields(Entry))


@cache
def load_published(directory: Path = PUBLISHED_DIR) -> tuple[Entry, ...]:
    """All entries, in file and list order.

    Raises:
        ValueError: an entry has an unknown key or lacks a source, a confidence or numbers.
    """
    entries = []
    for path in sorted(directory.glob("*.yaml")):
        for index, item in enumerate(
            yaml.load(path.read_text(encoding="utf-8"), Loader=FAST_LOADER) or []
        ):
            unknown = sorted(set(item) - KEYS)
            missing = [k for k in ("source", "confidence", "trainer", "protocol") if k not in item]
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
    """Entries that speak of this run; an argument left empty does not restrict."""

    def fits(entry: Entry) -> bool:
        numbers = {**entry.accuracy, **entry.base}
        return (
            entry.protocol == protocol
            and (not trainer or entry.trainer == trainer)
            and (not backbone or not entry.backbone or entry.backbone == backbone)
            and (not entry.recipe or not recipe or entry.recipe in recipe)
            and (shots is None or entry.shots is None or entry.shots == shots)
            and (not classifier or entry.classifier in ("", classifier))
            and (not dataset or dataset in numbers)
        )

    return [entry for entry in load_published() if fits(entry)]
