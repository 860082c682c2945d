"""Base and new classes: keep the first or second half of the classes and renumber the labels."""

import math
from collections.abc import Sequence

from dassl.config import check_value, one_of
from dassl.data.datasets import Datum

FEWEST_CLASSES = 4  # two base, two new
SUBSAMPLES = ("all", "base", "new")


def kept_labels(labels: Sequence[int], subsample: str) -> list[int]:
    """The labels that "all" / "base" / "new" keeps, sorted: base is the first ceil(n / 2).

    Raises:
        ValueError: for another word, or for a new half of fewer than two classes.
    """
    check_value("DATASET.SUBSAMPLE_CLASSES", subsample, one_of(*SUBSAMPLES))
    ordered = sorted(set(labels))
    if subsample == "all":
        return ordered
    middle = math.ceil(len(ordered) / 2)
    if subsample == "base":
        return ordered[:middle]
    if len(ordered) < FEWEST_CLASSES:
        raise ValueError(too_few_classes(len(ordered)))
    return ordered[middle:]


def too_few_classes(count: int) -> str:
    """Why a set of so many classes is not halved."""
    return (
        f"DATASET.SUBSAMPLE_CLASSES: the {count} classes leave {count // 2} new ones, and every "
        f"answer among fewer than two is right (accuracy 100%); expected at least {FEWEST_CLASSES} "
        "classes. Add classes, or use the protocol fewshot."
    )


def subsample_classes(*lists: Sequence[Datum], subsample: str = "all") -> tuple | list:
    """Keep the classes of the first list's base or new half in all lists.

    Labels are renumbered from 0 in sorted order, the order of the items is kept, ``domain``
    becomes 0. "all" returns the lists untouched, as the tuple that came in.
    """
    kept = kept_labels([item.label for item in lists[0]], subsample)
    if subsample == "all":
        return lists
    print(f"SUBSAMPLE {subsample.upper()} CLASSES!")
    new_label = {label: position for position, label in enumerate(kept)}
    return [
        [
            Datum(impath=i.impath, label=new_label[i.label], classname=i.classname)
            for i in items
            if i.label in new_label
        ]
        for items in lists
    ]
