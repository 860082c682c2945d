"""Paired comparison of two methods: over the same datasets, shots, seeds and training images."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dassl.evaluation.predictions import read_predictions
from tools.results.records import Record
from tools.results.statistics import mean

logger = logging.getLogger(__name__)
RESAMPLES = 2000
Place = tuple[str, str, str, str, int]  # protocol, part, dataset, target, shots


@dataclass(frozen=True)
class Pair:
    """Two runs that differ in the method alone."""

    first: Record
    second: Record

    @property
    def difference(self) -> float:
        """Accuracy of the first minus that of the second, percentage points."""
        return accuracy(self.first) - accuracy(self.second)

    @cached_property
    def by_image(self) -> np.ndarray | None:
        """(N,) 1, 0 or -1: which of the two is right where one is; None without predictions."""
        try:
            one, two = (read_predictions(run.path).splits for run in (self.first, self.second))
        except FileNotFoundError:
            return None
        except ValueError as err:
            logger.warning("%s", err)
            return None
        if "test" not in one or "test" not in two:
            return None
        places = {name: place for place, name in enumerate(two["test"].images.tolist())}
        order = [places.get(name) for name in one["test"].images.tolist()]
        if None in order or len(order) != len(places):
            return None  # not the same images
        right = [(split["test"].predicted == split["test"].labels).astype(int)
                 for split in (one, two)]  # fmt: skip
        return right[0] - right[1][np.array(order, dtype=int)]


@dataclass(frozen=True)
class Difference:
    """The paired difference at one place, or the mean over places.

    Attributes:
        mean: first minus second, percentage points.
        interval: 95 % bootstrap interval, or None where there is one seed and no predictions.
        resampled: what the interval is over.
        wins, ties, losses: of the first method, counted in pairs.
    """

    mean: float
    interval: tuple[float, float] | None
    resampled: str
    wins: int
    ties: int
    losses: int
    seeds: tuple[int, ...]

    @property
    def is_significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def accuracy(record: Record) -> float:
    """The run's own test accuracy, percent."""
    return record.metrics["test"]["accuracy"]


def place_of(record: Record) -> Place:
    """Where a method was tested."""
    return record.protocol, record.part, record.dataset, record.target, record.shots


def paired(
    first: Iterable[Record], second: Iterable[Record]
) -> tuple[dict[Place, list[Pair]], list[str]]:
    """Pairs by place, in the order of seeds, and notes on what was left out.

    Runs without training images (zero-shot: one seed serves all) pair with every seed and every
    number of shots at their dataset.
    """
    seconds = [run for run in second if "accuracy" in run.metrics.get("test", {})]
    exact = {(place_of(run), run.seed): run for run in seconds}
    untrained = {run.dataset + run.part + run.target: run for run in seconds if not run.shots}
    pairs: dict[Place, list[Pair]] = defaultdict(list)
    notes = []
    for run in sorted(first, key=lambda one: (place_of(one), one.seed)):
        if "accuracy" not in run.metrics.get("test", {}):
            continue
        other = exact.get((place_of(run), run.seed))
        other = other or untrained.get(run.dataset + run.part + run.target)
        if other is None:
            notes.append(f"{run.path}: no run of the other method with its seed and shots.")
        elif run.shots == other.shots and _drawn(run) != _drawn(other):
            notes.append(f"{run.path} and {other.path}: other training images.")
        else:
            pairs[place_of(run)].append(Pair(run, other))
    return dict(pairs), notes


def _drawn(record: Record) -> str:
    """The digest of the training images, where the run has any."""
    return str(record.details.get("fewshot_digest") or "") if record.shots else ""


def compared(pairs: Sequence[Pair], *, seed: int = 0) -> Difference:
    """The difference over the pairs of one place."""
    drawn, resampled = _resampled(pairs, np.random.default_rng(seed))
    return _difference(pairs, drawn, resampled)


def compared_over(places: Iterable[Sequence[Pair]], *, seed: int = 0) -> Difference:
    """The mean over places, each with equal weight; the places themselves are not resampled."""
    places, rng = list(places), np.random.default_rng(seed)
    found = [_resampled(pairs, rng) for pairs in places]
    each = [one for one, _ in found if one is not None]
    drawn = np.mean(each, axis=0) if len(each) == len(found) else None
    kinds = " or ".join(dict.fromkeys(kind for _, kind in found if kind))
    every = [pair for pairs in places for pair in pairs]
    return _difference(every, drawn, kinds, mean([_mean(pairs) for pairs in places]))


def _mean(pairs: Sequence[Pair]) -> float:
    return mean([pair.difference for pair in pairs])


def _difference(
    pairs: Sequence[Pair], drawn: np.ndarray | None, resampled: str, center: float | None = None
) -> Difference:
    interval = None
    if drawn is not None:
        low, high = np.percentile(drawn, [2.5, 97.5])
        interval = float(low), float(high)
    gaps = [round(pair.difference, 6) for pair in pairs]
    return Difference(
        mean=_mean(pairs) if center is None else center,
        interval=interval,
        resampled=resampled,
        wins=sum(gap > 0 for gap in gaps),
        ties=sum(gap == 0 for gap in gaps),
        losses=sum(gap < 0 for gap in gaps),
        seeds=tuple(sorted({pair.first.seed for pair in pairs})),
    )


def _resampled(pairs: Sequence[Pair], rng: np.random.Generator) -> tuple[np.ndarray | None, str]:
    """(RESAMPLES,) mean differences over pairs drawn with replacement, and over their images."""
    chosen = rng.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    rows = [pair.by_image for pair in pairs if pair.by_image is not None]
    if len(rows) < len(pairs) or len({len(row) for row in rows}) > 1:
        if len(pairs) < 2:
            return None, ""
        gaps = np.array([pair.difference for pair in pairs])
        return gaps[chosen].mean(axis=1), "seeds"
    by_image = np.stack(rows, axis=1)  # (N, seeds)
    drawn = np.empty(RESAMPLES)
    for number, seeds in enumerate(chosen):
        images = rng.integers(len(by_image), size=len(by_image))
        drawn[number] = by_image[images].mean(axis=0)[seeds].mean()
    return 100 * drawn, "seeds and test images" if len(pairs) > 1 else "test images"
