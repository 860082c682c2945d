"""Means over datasets: over which sets, and over how many of a benchmark's sets."""

from __future__ import annotations

from collections.abc import Collection

from tools.protocols.sets import FEWSHOT_SETS, IMAGENET_VARIANTS, SOURCE

SHIFTED_SETS = (SOURCE, *IMAGENET_VARIANTS)  # the tables under distribution shift


def averaged_sets(names: Collection[str]) -> list[tuple[str, frozenset[str]]]:
    """(label, datasets) of each mean that papers take over these datasets, of two sets or more.

    The eleven few-shot sets have one mean. ImageNet with its variants has two, as printed: over
    all, and without ImageNet (`OOD average`). Sets of one's own are averaged as they are.
    """
    names = frozenset(names)
    if not names <= {*FEWSHOT_SETS, *IMAGENET_VARIANTS}:
        means = [("average", names, len(names))]
    else:
        variants = names & set(IMAGENET_VARIANTS)
        means = [("average", names - variants, len(FEWSHOT_SETS))]
        if variants and SOURCE in names:
            means.append(("average", names & set(SHIFTED_SETS), len(SHIFTED_SETS)))
        means.append(("OOD average", variants, len(IMAGENET_VARIANTS)))
    return [
        (average_label(len(some), count, label), some)
        for label, some, count in means
        if len(some) > 1
    ]


def average_of(names: Collection[str]) -> str:
    """The label of one mean over all these datasets: how many of the eleven they are, if any."""
    is_part = set(names) <= set(FEWSHOT_SETS)
    return average_label(len(names), len(FEWSHOT_SETS) if is_part else len(names))


def average_label(present: int, count: int, name: str = "average", what: str = "sets") -> str:
    """`average of 11`, or `average of 3 of 11 sets` where some are missing."""
    return f"{name} of {present}" if present == count else f"{name} of {present} of {count} {what}"
