"""A command once: killed or signalled at a moment, and what outlives it.

Processes are found by a mark in their environment, which children inherit, daemons too (Linux).
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dassl.utils.interrupts import NAMES
from tools.campaigns.subjects import ROOT

MARK = "VLTUNE_CAMPAIGN"
SECONDS = 600.0  # that a command may take
SECONDS_OF_OTHERS = 60.0  # that its other processes may take to end after it
CTRL_C = re.compile(r"^Traceback .*\n(?:[ \t].*\n)*KeyboardInterrupt\n", re.MULTILINE)
DAEMONS = ("/ray/core/src/", "ray/_private/", "ray/dashboard/", "resource_tracker")


@dataclass
class Attempt:
    """How a command ended.

    Attributes:
        status: its exit status; negative: the signal that ended it; None: it had to be killed.
        seconds: until it ended.
        hit: what got the signal: "command", "group" or another process of it, by its command line;
            empty: it had ended before.
        others: seconds that other processes of it lived on.
        orphans: command lines of those that had to be killed.
        began: whether it wrote a file, or a word other than the traceback of Python's own Ctrl-C.
    """

    status: int | None
    seconds: float
    hit: str
    others: float
    orphans: list[str]
    began: bool = True


@dataclass(frozen=True)
class Disturbance:
    """A signal at a moment, in seconds after the start."""

    signum: int
    moment: float


def attempt(
    words: Sequence[str],
    *,
    log: Path,
    cache: Path,
    disturbance: Disturbance | None = None,
    rng: random.Random,
) -> Attempt:
    """Start a command, disturb it, and wait until all its processes have ended.

    Args:
        log: what it prints; all that it writes is beside this file or below.
    """
    mark = f"{MARK}={secrets.token_hex(8)}"
    environment = {**_settings(cache), **dict([mark.split("=")])}
    before = _written(log)
    start = time.monotonic()
    with log.open("ab") as file:
        process = subprocess.Popen(
            words,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=_take_signals,
        )
    hit = ""
    try:
        if disturbance is not None and _wait(process, disturbance.moment) is None:
            hit = _send(process, disturbance.signum, mark, rng)
        status = _wait(process, SECONDS)
        ended = time.monotonic()
        while marked(mark) and time.monotonic() - ended < SECONDS_OF_OTHERS and status is not None:
            time.sleep(0.1)
        orphans = list(marked(mark).values())
        others, began = time.monotonic() - ended, _written(log) != before
        return Attempt(status, ended - start, hit, others, orphans, began)
    finally:
        for pid in marked(mark):
            _kill(pid, signal.SIGKILL)
        process.wait()


def _written(log: Path) -> tuple[str, dict[Path, int]]:
    """What commands have said, and when each file beside the log and below was written."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    times = {}
    for path in log.parent.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # of a process that lives on
            if path.is_file() and path != log:
                times[path] = path.stat().st_mtime_ns
    return CTRL_C.sub("", text), times


def start(
    words: Sequence[str],
    folder: Path,
    *,
    before: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen:
    """Start tools/protocol.py; caches and log.txt are in the folder.

    Args:
        before: words in front of the command.
        environment: beside that of a campaign.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as file:
        return subprocess.Popen(
            [*before, sys.executable, str(ROOT / "tools" / "protocol.py"), *words],
            env={**os.environ, **_settings(folder / "cache"), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            preexec_fn=_take_signals,
        )


def outcome(words: Sequence[str], folder: Path) -> list[str]:
    """Do a protocol undisturbed; what is wrong with how it ended."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "tools" / "protocol.py"), *words]
    ended = attempt(command, log=folder / "log.txt", cache=folder / "cache", rng=random.Random(0))
    faults = [f"exit status {ended.status}"] if ended.status else []
    return [*faults, *(f"left a process: {line}" for line in ended.orphans)]


def _settings(cache: Path) -> dict[str, str]:
    """Environment of every command of a campaign."""
    return {"VLTUNE_CACHE": str(cache), "VLTUNE_RESUME_SECONDS": "0", "OMP_NUM_THREADS": "1"}


def _take_signals() -> None:
    """What a campaign in the background ignores (Ctrl-C, SIGHUP under nohup), its commands take."""
    for name in NAMES:
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def _wait(process: subprocess.Popen, seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _send(process: subprocess.Popen, signum: int, mark: str, rng: random.Random) -> str:
    """Send a signal; returns what got it.

    SIGKILL ends the command or one of its processes, SIGINT reaches all, as from a terminal, or
    the command alone; other signals reach the command alone.
    """
    others = {pid: line for pid, line in marked(mark).items() if not _is_daemon(line)}
    others.pop(process.pid, None)
    is_other = rng.random() < 0.5
    if signum == signal.SIGKILL and others and is_other:
        _kill(pid := rng.choice(sorted(others)), signum)
        return others[pid] or "child"
    if signum == signal.SIGINT and is_other:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        return "group"
    _kill(process.pid, signum)
    return "command"


def _is_daemon(line: str) -> bool:
    return any(part in line for part in DAEMONS)


def _kill(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def marked(mark: str) -> dict[int, str]:
    """The processes with a mark in their environment: id -> command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = line.decode(errors="replace").strip()
    return found
