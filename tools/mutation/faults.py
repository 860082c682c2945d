"""Faults as data: one piece of text of one file, and what stands there instead.

`faults.yaml` holds two tables. `tests` names sets of tests, each a list of pytest arguments, a file
and perhaps `-k WORDS`. `faults` lists the faults of each file, so that a file that moves is one
line to change; `old` must be in the file exactly once, within a line.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("faults.yaml")
FIELDS = {"name", "old", "new", "tests"}


class StaleFault(ValueError):
    """A fault whose text is not in its file, or not just once."""


@dataclass(frozen=True)
class Fault:
    """One wrong line.

    Attributes:
        name: what is wrong, in a few words joined by underscores.
        file: below the root of the repository.
        old, new: text of a line, and what replaces it.
        tests: pytest arguments of the tests that must notice it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def planted(self, text: str) -> str:
        """The file's text with the fault in it.

        Raises:
            StaleFault: saying how often the old text was found.
        """
        count = text.count(self.old)
        if count != 1 or self.old == self.new:
            found = f"found {count} times" if count != 1 else "the same as `new`"
            raise StaleFault(
                f"{self.name}: {self.old!r} is {found} in {self.file}, expected once and another "
                f"text in its place. Correct `old` and `new` in {FILE.name}."
            )
        return text.replace(self.old, self.new)

    def check(self, root: Path) -> None:
        """Plant the fault in memory.

        Raises:
            StaleFault: the file, the text or a test file is not there, or the result is not Python.
        """
        for path in (self.file, *map(test_file, self.tests)):
            if not (root / path).exists():
                raise StaleFault(f"{self.name}: no {path}. Correct its path in {FILE.name}.")
        text = self.planted((root / self.file).read_text(encoding="utf-8"))
        try:
            compile(text, self.file, "exec")
        except SyntaxError as err:
            raise StaleFault(
                f"{self.name}: {self.file} is not Python once {self.new!r} stands at line "
                f"{err.lineno} ({err.msg}). Correct `new` in {FILE.name}."
            ) from err


def test_file(argument: str) -> str:
    """The path in a pytest argument, as `tests/test_x.py -k word`."""
    return shlex.split(argument)[0].split("::")[0]


def read_faults(path: Path = FILE) -> list[Fault]:
    """All faults, in the order of the file.

    Raises:
        ValueError: an unknown key, a set of tests that is not there, or a name given twice.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    sets, faults = content["tests"], []
    for file, entries in content["faults"].items():
        for entry in entries:
            if set(entry) != FIELDS:
                raise ValueError(
                    f"{path.name}, {file}: an entry has the keys {', '.join(sorted(entry))}, "
                    f"expected {', '.join(sorted(FIELDS))}."
                )
            names = [entry["tests"]] if isinstance(entry["tests"], str) else entry["tests"]
            if unknown := [name for name in names if name not in sets]:
                raise ValueError(
                    f"{path.name}, {entry['name']}: no set of tests is called {unknown[0]!r}. "
                    f"Known: {', '.join(sets)}."
                )
            tests = tuple(dict.fromkeys(test for name in names for test in sets[name]))
            faults.append(Fault(entry["name"], file, entry["old"], entry["new"], tests))
    names = [fault.name for fault in faults]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path.name} has two faults called {twice[0]}.")
    return faults


def chosen(faults: Sequence[Fault], patterns: Sequence[str]) -> list[Fault]:
    """The faults whose name fits one of the patterns (wildcards of file names); none: all.

    Raises:
        ValueError: a pattern that fits no fault.
    """
    for pattern in patterns:
        if not any(fnmatchcase(fault.name, pattern) for fault in faults):
            raise ValueError(f"--only {pattern}: no fault has this name; see --list.")
    return [
        fault
        for fault in faults
        if not patterns or any(fnmatchcase(fault.name, pattern) for pattern in patterns)
    ]
