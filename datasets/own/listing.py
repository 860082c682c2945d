"""What a set of one's own holds: an entry per image, and what was found on the way."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SHOWN = 5  # names that a sentence lists


class Entry(NamedTuple):
    """One image.

    Attributes:
        path: POSIX, relative to the set's root.
        label: the class folder, or what the table says.
        split: train, val or test; "" where nothing says.
        domain: "" where there are none.
    """

    path: str
    label: str
    split: str = ""
    domain: str = ""


@dataclass
class Listing:
    """The entries of a set.

    Attributes:
        root: folder that paths are relative to.
        spec: how a command names the set.
        entries: sorted by label and path.
        names: label -> readable class name, in the order of the labels.
        said: how it was read, a clause each.
        notes: what was left out or looks odd.
        problems: what keeps it from being used, a sentence each.
        empty: class folders without images.
    """

    root: Path
    spec: str
    entries: list[Entry] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    @property
    def domains(self) -> list[str]:
        """Names of the domains, sorted."""
        return sorted({entry.domain for entry in self.entries if entry.domain})

    @property
    def splits(self) -> set[str]:
        """The splits that the folders or the table name."""
        return {entry.split for entry in self.entries if entry.split}

    def path(self, entry: Entry) -> str:
        """Where an image lies."""
        return str(self.root) + os.sep + entry.path.replace("/", os.sep)

    def usable(self) -> Listing:
        """Itself.

        Raises:
            ValueError: the first problem, and how to see the others.
        """
        if self.problems:
            more = len(self.problems) - 1
            check = f"python tools/check_data.py {shlex.quote(self.spec)}"
            others = f" ({more} more problems: {check})" if more else ""
            raise ValueError(self.problems[0] + others)
        return self


def listed(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
