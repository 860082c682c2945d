"""Fields that the settings of several methods have."""

from typing import Any

from dassl.config import one_of, setting

PRECISIONS = ("fp32", "fp16", "amp")


def precision(default: str, *allowed: str) -> Any:
    """PREC: what the backbone computes in."""
    choice = one_of(*(allowed or PRECISIONS))
    return setting(default, "precision of the backbone; fp32 on a CPU", choice, varies=True)
