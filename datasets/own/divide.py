"""Train, val and test of a set of one's own: as the folders or the table say, the rest split off.

What is split off follows from the file names alone, so it is the same on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..records import REBUILD_SEED, SPLITS, TRAIN_FRACTION, VAL_FRACTION, Record, Splits
from .listing import Entry, Listing, listed

TEST_FRACTION = 1 - TRAIN_FRACTION - VAL_FRACTION


@dataclass(frozen=True)
class Division:
    """The three lists, and in words what was split off."""

    splits: Splits
    said: list[str]


def divide(listing: Listing) -> Division:
    """The lists of a set.

    Where nothing says what is for what, every class is split by rule P of ``records.py`` (half
    train, a fifth val, the rest test). Otherwise a missing test list is three tenths of train and
    a missing val list a fifth of what is left. Classes too small for all parts keep a training
    image first, then a test image.

    Raises:
        ValueError: a class of val or test that train does not have.
    """
    given, said = _given(listing), []
    if not listing.splits:
        parts = _split(given["train"], (TRAIN_FRACTION, VAL_FRACTION))
        given = dict(zip(SPLITS, parts))
        said.append("val and test split off (half of each class is train, a fifth val)")
    elif not given["test"]:
        given["train"], _, given["test"] = _split(given["train"], (1 - TEST_FRACTION, 0.0))
        said.append(f"no test images: {len(given['test'])} of train are used as test")
    if not given["val"]:
        given["train"], given["val"] = _split_val(given["train"])
        if given["val"]:
            said.append(f"no val images: {len(given['val'])} of train are used as val")
    return Division(given, said)


def _given(listing: Listing) -> Splits:
    """The records by the split that they are said to be of; all are train where nothing says."""
    splits: Splits = {split: [] for split in SPLITS}
    labels = {label: number for number, label in enumerate(_training_labels(listing))}
    for entry in listing.entries:
        name = listing.names[entry.label]
        record = Record(entry.path, labels[entry.label], name)
        splits[entry.split or "train"].append(record)
    return splits


def _training_labels(listing: Listing) -> list[str]:
    def labels(entries: Sequence[Entry]) -> set[str]:
        return {entry.label for entry in entries}

    trained = labels([entry for entry in listing.entries if entry.split in ("train", "")])
    if unknown := sorted(labels(listing.entries) - trained):
        raise ValueError(
            f"{listing.spec}: val or test has classes that train has not, {listed(unknown)}; "
            "expected the same classes. Add training images, or take these classes out."
        )
    return sorted(trained)


def _by_label(records: Sequence[Record]) -> list[list[Record]]:
    groups: dict[int, list[Record]] = {}
    for record in records:
        groups.setdefault(record.label, []).append(record)
    return list(groups.values())


def _split(records: Sequence[Record], fractions: tuple[float, float]) -> tuple[list[Record], ...]:
    """Shuffle every class; its first part is train, the second val, the rest test."""
    generator = random.Random(REBUILD_SEED)
    parts: tuple[list[Record], ...] = ([], [], [])
    for group in _by_label(records):
        generator.shuffle(group)
        n_train, n_val = (round(len(group) * fraction) for fraction in fractions)
        n_train = min(max(n_train, 1), max(len(group) - 1, 1))
        n_val = min(n_val, max(len(group) - n_train - 1, 0))
        parts[0].extend(group[:n_train])
        parts[1].extend(group[n_train : n_train + n_val])
        parts[2].extend(group[n_train + n_val :])
    return parts


def _split_val(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Shuffle every class; its first fifth is val (none of a class with one or two images)."""
    generator = random.Random(REBUILD_SEED)
    train: list[Record] = []
    val: list[Record] = []
    for group in _by_label(records):
        order = list(range(len(group)))
        generator.shuffle(order)
        n_val = round(len(group) * VAL_FRACTION)
        val.extend(group[i] for i in order[:n_val])
        train.extend(group[i] for i in order[n_val:])
    return train, val
