"""Drawing K items per class, as the original does."""

import logging
import random
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base_dataset import Datum

logger = logging.getLogger(__name__)


def group_by_label(items: "Iterable[Datum]") -> "dict[int, list[Datum]]":
    """Group items by label, keys in the order of first occurrence."""
    groups = defaultdict(list)
    for item in items:
        groups[item.label].append(item)
    return groups


def draw_shots(
    items: "Iterable[Datum]", num_shots: int, *, rng: Any = random, repeat: bool = False
) -> "list[Datum]":
    """Draw `num_shots` items per class, classes in the order of first occurrence.

    A class with at least `num_shots` items is sampled without replacement (also when it has just
    so many: the draw shuffles them). A smaller one is kept whole, without any draw, or, with
    `repeat`, drawn with replacement.

    Args:
        items: the pool.
        num_shots: at least 1.
        rng: a `random.Random`, or the module for the global generator.
        repeat: fill small classes up.
    """
    drawn, small = [], {}
    for members in group_by_label(items).values():
        if len(members) >= num_shots:
            drawn.extend(rng.sample(members, num_shots))
            continue
        small[members[0].classname] = len(members)
        drawn.extend(rng.choices(members, k=num_shots) if repeat else members)
    if small and not repeat:
        name = min(small, key=small.__getitem__)
        logger.warning(
            '%d classes have fewer images than the %d to draw (fewest: "%s" with %d); all their '
            "images are taken, none twice.",
            len(small),
            num_shots,
            name,
            small[name],
        )
    return drawn
