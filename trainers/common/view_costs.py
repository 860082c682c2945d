"""What fresh training views cost, said before they are encoded."""

import datetime
import logging
import time
from collections.abc import Sequence
from typing import Any

from dassl.data.datasets import Datum

logger = logging.getLogger(__name__)
TIMED = 8  # images that are encoded for an estimate


def say_price(bank: Any, items: Sequence[Datum], *, epochs: int, views: int, seed: int) -> None:
    """Log how many encodings the epochs need, how long they may take, and what a bank needs.

    Args:
        bank: a feature bank; a few images are encoded once to time it, nothing is stored.
        items: the training images.
        epochs: that are trained.
        views: stored views per image of ``--views bank``.
        seed: of the run.
    """
    bank.fresh(items[:1], seed=seed, epoch=0)  # the first call is the slow one
    some = items[:TIMED]
    start = time.perf_counter()
    bank.fresh(some, seed=seed, epoch=0)
    count = len(items) * epochs
    seconds = (time.perf_counter() - start) / len(some) * count
    logger.info(
        "Fresh views: %d images × %d epochs = %s encodings, about %s; --views bank encodes "
        "%d × %d and keeps them.",
        len(items),
        epochs,
        f"{count:,}",
        datetime.timedelta(seconds=max(round(seconds), 1)),
        len(items),
        views,
    )
