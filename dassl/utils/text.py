"""Small text helpers."""

import difflib
from collections.abc import Iterable

_MAX_LISTED = 30


def did_you_mean(name: str, known: Iterable[str], *, list_all: bool = True) -> str:
    """Return `Did you mean "X"? Known: A, B, ...` for a misspelt name.

    Args:
        name: what was given.
        known: the valid names.
        list_all: also list the valid names (the first 30).
    """
    known = list(known)
    by_lower = {k.lower(): k for k in reversed(known)}
    close = difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.5)
    parts = []
    if close:
        parts.append("Did you mean " + " or ".join(f'"{by_lower[k]}"' for k in close) + "?")
    if list_all or not close:
        listed = ", ".join(known[:_MAX_LISTED]) or "none"
        parts.append(f"Known: {listed}{', ...' if len(known) > _MAX_LISTED else ''}.")
    return " ".join(parts)
