"""Processes of their own in which torch is imported: children of the launcher's fork server."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.protocols.launcher import PRELOAD, SERVER


def served(target: Callable[..., object], *args: Any) -> Any:
    """A process, not started, that calls ``target`` in the environment of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([SERVER, *PRELOAD])
    return context.Process(target=_call, args=(dict(os.environ), target, args))


def run_python(
    words: Sequence[str], folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What ``python words...`` prints, and its exit status; ``folder`` keeps what it prints."""
    process = served(_run, list(words), folder, environment)
    process.start()
    process.join()
    out, err = ((folder / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def _call(environment: dict[str, str], target: Callable[..., object], args: tuple) -> None:
    os.environ.clear()  # what it holds is the server's
    os.environ.update(environment)
    target(*args)


def _run(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    for number, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
