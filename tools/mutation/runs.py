"""Running tests on a copy of the tree, with and without a fault in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.mutation.faults import Fault

NOTICED, SURVIVED, TIMED_OUT, NOT_RUN = "noticed", "survived", "timed out", "not run"
OUTCOMES = {0: SURVIVED, 1: NOTICED, 2: NOTICED}  # by pytest's exit status; 2: a file fails to load
MISSING = re.compile(r"^ERROR: not found: .*?(\S+::.+)$", re.MULTILINE)
PASSED = re.compile(r"^PASSED (.+)$", re.MULTILINE)
FIRST_FAILURE = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)
NOT_IN_DIGEST = ("tools/mutation/", ".md")  # what neither tests nor the faults' files read
OPTIONS = ("-q", "--tb=no", "-p", "no:cacheprovider")
# bytecode of a fault must not stay; plugins that happen to be installed have no part in this
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
LATER = 10  # seconds by which a planted file is newer: Python never takes old bytecode for it


@dataclass(frozen=True)
class Outcome:
    """What the tests did.

    Attributes:
        kind: noticed, survived, timed out or not run.
        by: the first test that failed, or why nothing ran.
        seconds: that it took.
    """

    kind: str
    by: str = ""
    seconds: float = 0.0


class Copy:
    """A copy of a repository's files, in which faults are planted one at a time."""

    def __init__(self, root: Path, folder: Path) -> None:
        """Copy every file of ``root`` that git does not ignore into ``folder``."""
        self.folder = folder
        digest = hashlib.sha256()
        for name in repository_files(root):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target)
            if not name.startswith(NOT_IN_DIGEST) and not name.endswith(NOT_IN_DIGEST):
                digest.update(name.encode() + b"\0" + target.read_bytes() + b"\0")
        self.digest = digest.hexdigest()
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(folder)], check=False)

    @contextmanager
    def planted(self, fault: Fault) -> Iterator[None]:
        """The copy with the fault in it."""
        path = self.folder / fault.file
        original = path.read_bytes()
        status = path.stat()
        path.write_text(fault.planted(original.decode("utf-8")), encoding="utf-8")
        os.utime(path, (status.st_atime, status.st_mtime + LATER))
        try:
            yield
        finally:
            path.write_bytes(original)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def test(self, tests: Sequence[str], *, limit: float) -> Outcome:
        """Run pytest up to the first failure, for at most ``limit`` seconds."""
        start = time.monotonic()
        status, printed = self._pytest(["-x", "-rfE", *pytest_arguments(tests)], limit)
        seconds = round(time.monotonic() - start, 1)
        if status is None:
            return Outcome(TIMED_OUT, f"no end after {limit:.0f} s", seconds)
        failure = FIRST_FAILURE.search(printed)
        kind = OUTCOMES.get(status, NOT_RUN)
        last = printed.strip().splitlines()[-1:] or ["nothing was printed"]
        by = failure[1] if failure else last[0]
        return Outcome(kind, "" if kind == SURVIVED else by, seconds)

    def passing(self, tests: Sequence[str], *, limit: float) -> set[str]:
        """Those of some tests (``file::name``) that are there and pass, found in one run."""
        asked = list(dict.fromkeys(tests))
        printed = self._pytest(["-rA", *asked], limit)[1] if asked else ""
        if missing := [name for path in MISSING.findall(printed) for name in asked if name in path]:
            return self.passing([name for name in asked if name not in missing], limit=limit)
        return {name for name in PASSED.findall(printed) if name in asked}

    def _pytest(self, arguments: Sequence[str], limit: float) -> tuple[int | None, str]:
        """Exit status (None after the limit), and what was printed."""
        command = [sys.executable, "-B", "-m", "pytest", *OPTIONS, *arguments]
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(self.folder)}
        return _run(command, self.folder, environment, limit)


def repository_files(root: Path) -> list[str]:
    """Files of a repository that git does not ignore, committed or not, sorted.

    Raises:
        RuntimeError: git finds no repository there.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The copy needs a git repository at {root}: {done.stderr.strip()}")
    names = sorted(set(filter(None, done.stdout.split("\0"))))
    return [name for name in names if (root / name).is_file()]


def pytest_arguments(tests: Sequence[str]) -> list[str]:
    """Several `file -k WORDS` as the arguments of one call.

    One `-k` holds for all files of a call, so that each file's words are tied to its name.
    """
    files, words = [], []
    for test in tests:
        file, *options = shlex.split(test)
        files.append(file)
        name = Path(file.split("::")[0]).name
        words.append(f"({name} and ({options[1]}))" if options[:1] == ["-k"] else name)
    needed = any(" and " in word for word in words)
    return [*dict.fromkeys(files), *(["-k", " or ".join(words)] if needed else [])]


def _run(
    command: Sequence[str], folder: Path, environment: dict[str, str], limit: float
) -> tuple[int | None, str]:
    """Exit status (None after the limit) and what was printed; no child is left running."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=limit)
            return process.returncode, printed
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


class Results:
    """Outcomes by a key, kept in a file as they come; they count as long as the tree is the same.

    What did not decide anything (a time limit, a run that could not start) is tried again. The test
    that noticed a fault in an earlier tree is remembered: it is the first to try in another.
    """

    def __init__(self, path: Path, tree: str) -> None:
        self.path = path
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        is_same = kept.get("tree") == tree
        self.content: dict[str, Any] = {
            "tree": tree,
            "outcomes": kept["outcomes"] if is_same else {},
            "witnesses": kept.get("witnesses", {}),
        }

    @property
    def witnesses(self) -> dict[str, str]:
        """Fault -> the test that noticed it last."""
        return self.content["witnesses"]

    def get(self, key: str) -> Outcome | None:
        """What was found before, if anything."""
        kept = self.content["outcomes"].get(key)
        return None if kept is None else Outcome(**kept["outcome"])

    def keep(self, key: str, name: str, outcome: Outcome) -> None:
        """Write an outcome; the name is for those who read the file."""
        if outcome.kind not in (NOTICED, SURVIVED):
            return
        self.content["outcomes"][key] = {"name": name, "outcome": asdict(outcome)}
        if outcome.kind == NOTICED and "::" in outcome.by:
            self.witnesses[name] = outcome.by
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps(self.content, indent=1), encoding="utf-8")
        os.replace(temporary, self.path)
