"""Run scripts in child processes that share one start-up.

Importing torch takes seconds. A fork server imports it once; every run is then a fresh fork of the
server: as isolated as a process of its own (a crash ends the run, not the protocol), without the
import. Where the platform has no fork server, every run is spawned anew.

The console then shows progress and messages alone; a run's log.txt has all that it prints.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import re
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

OURS = __name__.removesuffix("tools.protocols.launcher")  # "vltune." in a wheel, else ""
ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT.parent if OURS else ROOT  # what has to be on sys.path
PRELOAD = (
    "torch",
    "torchvision",
    *(f"{OURS}{name}" for name in ("dassl.engine.run", "datasets", "trainers.common")),
)
PROGRESS = re.compile(r"epoch \[(\d+)/(\d+)\] batch \[(\d+)/(\d+)\]")
NEWS = ("Rendering ", "Extracting ", "Continue the interrupted run")  # what else is shown
SECONDS_BETWEEN = 10.0  # between two progress lines
# what these tell is in results.json, and the same for every run
QUIET = tuple(f"{OURS}dassl.engine.{name}" for name in ("report", "run", "writer"))


class BriefConsole:
    """A stand-in for stdout that lets progress lines pass, now and then, and little else."""

    def __init__(self, console: TextIO) -> None:
        self.console = console
        self._line = ""
        self._last = time.monotonic()

    def write(self, text: str) -> int:
        """Print the lines that are shown, once they are complete."""
        *lines, self._line = (self._line + text).split("\n")
        for line in filter(self._is_shown, lines):
            self.console.write(f"  {line}\n")
            self.console.flush()
        return len(text)

    def _is_shown(self, line: str) -> bool:
        found = PROGRESS.match(line)
        if found is None:
            return line.startswith(NEWS)
        epoch, epochs, batch, batches = found.groups()
        is_last = (epoch, batch) == (epochs, batches)
        if not is_last and time.monotonic() - self._last < SECONDS_BETWEEN:
            return False
        self._last = time.monotonic()
        return True

    def __getattr__(self, name: str) -> Any:
        if name == "console":
            raise AttributeError(name)
        return getattr(self.console, name)


def run_script(script: str, arguments: Sequence[str], *, brief: bool = False) -> None:
    """Do in this process what `python script arguments...` does."""
    sys.argv = [script, *arguments]
    if str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))
    if brief:
        sys.stdout = BriefConsole(sys.stdout)
        for name in QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)
    runpy.run_path(str(ROOT / script), run_name="__main__")


class Launcher:
    """Starts scripts of the repository one after the other.

    Args:
        preload: modules that the fork server imports.
        brief: of what train.py prints, show progress alone.
    """

    def __init__(self, preload: Sequence[str] = PRELOAD, *, brief: bool = False) -> None:
        self.brief = brief
        has_server = "forkserver" in multiprocessing.get_all_start_methods()
        self.context = multiprocessing.get_context("forkserver" if has_server else "spawn")
        if has_server:
            self.context.set_forkserver_preload(list(preload))
        paths = [str(HOME), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads, see train.py

    def call(self, script: str, arguments: Sequence[str]) -> int:
        """Run `python script arguments...` and wait; returns its exit status."""
        sys.stdout.flush()
        process = self.context.Process(
            target=run_script,
            args=(script, list(arguments)),
            kwargs={"brief": self.brief and script == "train.py"},
        )
        process.start()
        try:
            process.join()
        except KeyboardInterrupt:
            process.join()  # the child got the signal too and ends by itself
            raise
        return process.exitcode or 0
