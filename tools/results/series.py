"""Group runs that differ in nothing but the seed, and series that differ in the dataset alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tools.results.published import JOINED
from tools.results.records import Record
from tools.results.settings import by_settings
from tools.results.statistics import Cell

SPLITS_NOT_SHOWN = ("train", "val")
METHOD_COLUMNS = ("trainer", "classifier", "recipe", "settings", "backbone", "shots", "rule")


@dataclass(frozen=True)
class Key:
    """What identifies a row of a table. `classifier` is `test` for the run's own number.

    `settings` is "" unless runs that agree in all else had other settings: then it says which.
    """

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
    settings: str = ""

    @property
    def place(self) -> tuple[str, str, str]:
        """Half of the classes, dataset and domain: where a method was tested."""
        return self.part, self.dataset, self.target

    @property
    def method(self) -> Key:
        """The key without its place: the same for all datasets, domains and halves."""
        return replace(self, part="", dataset="", target="")

    def labels(self) -> dict[str, str]:
        """The columns that tell methods apart, as text."""
        line = {name: str(getattr(self, name)) for name in METHOD_COLUMNS}
        line["classifier"] = "" if self.classifier == "test" else self.classifier
        return line


@dataclass(frozen=True)
class Series:
    """One row: a key and its metric values (percent) by seed."""

    key: Key
    metrics: dict[str, dict[int, float]]
    records: tuple[Record, ...]

    @property
    def trains_on_all(self) -> bool:
        """Whether all training images were used."""
        return self.records[0].trains_on_all

    @property
    def is_partial(self) -> bool:
        """Whether a run saw only a part of the test images."""
        return any(record.part_of_test for record in self.records)

    def cell(self, metric: str, *, ci95: bool = False) -> Cell | None:
        """Mean over seeds, or None where no run has the metric."""
        values = self.metrics.get(metric)
        if not values:
            return None
        return Cell.over(values, rule=self.key.rule, ci95=ci95, is_partial=self.is_partial)


def group(records: Iterable[Record], *, all_splits: bool = False) -> list[Series]:
    """Series in a stable order: shots 0 first, then by protocol, dataset, trainer, recipe, shots.

    Runs whose settings differ are never averaged: `Key.settings` says what differs. Two runs of
    the same seed and the same settings are kept apart by the name of their folder, or their own.
    """
    by_key: dict[Key, list[Record]] = defaultdict(list)
    for record in records:
        for name in record.metrics:
            if all_splits or name not in SPLITS_NOT_SHOWN:
                by_key[_key(record, name)].append(record)
    series = []
    for key, members in by_key.items():
        for settings, some in by_settings(members):
            series += _one_run_per_seed(replace(key, settings=settings), some)
    return sorted(series, key=_order)


def _one_run_per_seed(key: Key, members: list[Record]) -> list[Series]:
    seeds = [record.seed for record in members]
    if len(set(seeds)) == len(seeds):
        return [_series(key, members)]
    by_folder: dict[str, list[Record]] = defaultdict(list)
    for record in members:
        by_folder[_folder_label(record)].append(record)
    found = []
    for label, some in by_folder.items():
        is_clear = len({record.seed for record in some}) == len(some)
        named = [(label, some)] if is_clear else [(str(one.path), [one]) for one in some]
        found += [_series(replace(key, recipe=name), runs) for name, runs in named]
    return found


def by_method(series: Iterable[Series]) -> dict[Key, list[Series]]:
    """The series of each method, in their order; a method has one series per place.

    Recipes that differ in their epochs alone are one method (CoOp trains ImageNet for 50 epochs,
    the other sets for 200) called by all their names, unless two were run at the same place.
    """
    series = list(series)
    families: dict[Key, list[Key]] = defaultdict(list)
    for item in series:
        families[_family_of(item.key)].append(item.key)
    methods: dict[Key, list[Series]] = {}
    for item in series:
        members = families[_family_of(item.key)]
        key = item.key.method
        if len({member.place for member in members}) == len(members):
            recipes = sorted({member.recipe for member in members})
            key = replace(key, recipe=JOINED.join(recipes))
        methods.setdefault(key, []).append(item)
    return methods


def _family_of(key: Key) -> Key:
    return replace(key.method, recipe=recipe_family(key.recipe))


def recipe_family(recipe: str) -> str:
    """A recipe without its epochs: rn50_ep50, rn50_ep100 and rn50 are one."""
    return "_".join(part for part in recipe.split("_") if not part.removeprefix("ep").isdigit())


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


def _series(key: Key, members: Sequence[Record]) -> Series:
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
        key.settings,
        key.backbone,
        key.shots,
        not is_own_number,
        key.classifier,
        key.target,
        key.rule,
    )
