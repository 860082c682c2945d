"""Sizes and ages in words; imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Callable

SIZES = {"B": 1, **{f"{unit}B": 1000**n for n, unit in enumerate("KMGT", 1)}}
SIZES |= {f"{unit}iB".upper(): 1024**n for n, unit in enumerate("KMGT", 1)}
AGES = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}  # seconds
NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def parse_size(text: str) -> int:
    """Bytes that "20GB" (powers of 1000) or "20GiB" (of 1024) stands for.

    Raises:
        ValueError: it is not a number with such a unit.
    """
    return round(_parse(text, SIZES, str.upper, "a size such as 500MB, 20GB or 1.5TiB"))


def parse_age(text: str) -> float:
    """Seconds that "30d" stands for; units are m, h, d and w.

    Raises:
        ValueError: it is not a number with such a unit.
    """
    return _parse(text, AGES, str.lower, "an age such as 12h, 30d or 8w")


def _parse(text: str, units: dict[str, int], fold: Callable[[str], str], expected: str) -> float:
    found = NUMBER.fullmatch(text.strip())
    if found is None or fold(found.group(2)) not in units:
        raise ValueError(f'"{text}": expected {expected}, a number and its unit.')
    return float(found.group(1)) * units[fold(found.group(2))]


def shown_size(size: float) -> str:
    """12345678 -> "12.3 MB"."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def shown_age(seconds: float) -> str:
    """93600 -> "26 h"."""
    seconds = max(seconds, 0.0)
    if seconds < 2 * AGES["h"]:
        return f"{seconds // AGES['m']:.0f} min"
    unit = "h" if seconds < 2 * AGES["d"] else "d"
    return f"{seconds // AGES[unit]:.0f} {unit}"
