"""Small text helpers."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

_MAX_LISTED = 30
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how spreadsheets know one


def cell(value: Any) -> Any:
    """A value for a CSV file: text that a spreadsheet would compute gets an apostrophe in front."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    is_number = re.fullmatch(r"[+-]?[\d.,]*(e[+-]?\d+)?%?", value, re.IGNORECASE)
    return value if is_number else f"'{value}"


def did_you_mean(name: str, known: Iterable[str], *, list_all: bool = True) -> str:
    """Return `Did you mean "X"? Known: A, B, ...` for a misspelt name.

    Args:
        name: what was given.
        known: the valid names.
        list_all: also list the valid names (the first 30).
    """
    known = list(known)
    close = closest(name, known)
    if close and not list_all:
        return close
    listed = ", ".join(known[:_MAX_LISTED]) or "none"
    return f"{close} Known: {listed}{', ...' if len(known) > _MAX_LISTED else ''}.".lstrip()


def closest(name: str, known: Sequence[str]) -> str:
    """`Did you mean "X" or "Y"?`; empty where nothing is close."""
    by_lower = {k.lower(): k for k in reversed(known)}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.5)
    names = " or ".join(f'"{by_lower[k]}"' for k in close)
    return f"Did you mean {names}?" if names else ""
