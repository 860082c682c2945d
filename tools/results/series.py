"""Group runs that differ in nothing but the seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tools.results.records import Record
from tools.results.statistics import Cell

SPLITS_NOT_SHOWN = ("train", "val")


@dataclass(frozen=True)
class Key:
    """What identifies a row of a table. `classifier` is `test` for the run's own number."""

    protocol: str
    part: str
    trainer: str
    recipe: str
    backbone: str
    dataset: str
    source: str
    shots: int
    target: str
    classifier: str
    rule: str


@dataclass(frozen=True)
class Series:
    """One row: a key and its metric values (percent) by seed."""

    key: Key
    metrics: dict[str, dict[int, float]]
    records: tuple[Record, ...]

    @property
    def trains_on_all(self) -> bool:
        """Whether all training images were used: no shots were drawn, yet labels were read."""
        labelled = self.records[0].details.get("labelled_images") or {}
        return self.key.shots == 0 and labelled.get("train", 0) > 0

    def cell(self, metric: str, *, ci95: bool = False) -> Cell | None:
        """Mean over seeds, or None where no run has the metric."""
        values = self.metrics.get(metric)
        if not values:
            return None
        partial = any(record.part_of_test for record in self.records)
        return Cell.over(values, rule=self.key.rule, ci95=ci95, is_partial=partial)


def group(records: Iterable[Record], *, all_splits: bool = False) -> list[Series]:
    """Series in a stable order: shots 0 first, then by protocol, dataset, trainer, recipe, shots.

    Two runs of the same seed that would meet in one series (runs that differ in options only) are
    kept apart by the name of their folder.
    """
    by_key: dict[Key, list[Record]] = defaultdict(list)
    for record in records:
        for name in record.metrics:
            if all_splits or name not in SPLITS_NOT_SHOWN:
                by_key[_key(record, name)].append(record)
    series = []
    for key, members in by_key.items():
        seeds = [record.seed for record in members]
        if len(set(seeds)) == len(seeds):
            series.append(_series(key, members))
            continue
        by_folder: dict[str, list[Record]] = defaultdict(list)
        for record in members:
            by_folder[_folder_label(record)].append(record)
        for label, some in by_folder.items():
            series.append(_series(replace(key, recipe=label), some))
    return sorted(series, key=_order)


def _key(record: Record, classifier: str) -> Key:
    return Key(
        protocol=record.protocol,
        part=record.part,
        trainer=record.trainer,
        recipe=record.recipe,
        backbone=record.backbone,
        dataset=record.dataset,
        source=record.source if record.source != record.dataset else "",
        shots=record.shots,
        target=record.target,
        classifier=classifier,
        rule=record.rule,
    )


def _folder_label(record: Record) -> str:
    folder = record.path
    while folder.name.startswith(("seed", "te_")) and folder.parent != folder:
        folder = folder.parent
    return str(folder)


def _series(key: Key, members: list[Record]) -> Series:
    metrics: dict[str, dict[int, float]] = defaultdict(dict)
    for record in members:
        for metric, value in record.metrics[key.classifier].items():
            metrics[metric][record.seed] = value
    return Series(key, dict(metrics), tuple(members))


def _order(series: Series) -> tuple:
    key = series.key
    is_own_number = key.classifier == "test"
    return (
        key.protocol,
        key.dataset,
        key.shots > 0,
        key.trainer != "ZeroshotCLIP",
        key.trainer,
        key.recipe,
        key.backbone,
        key.shots,
        not is_own_number,
        key.classifier,
        key.target,
        key.rule,
    )
