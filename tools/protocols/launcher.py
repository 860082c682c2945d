"""Run scripts in child processes that share one start-up.

Importing torch takes seconds. A fork server imports it once; every run is then a fresh fork of the
server: as isolated as a process of its own (a crash ends the run, not the protocol), without the
import. Where the platform has no fork server, every run is spawned anew.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRELOAD = ("torch", "torchvision", "datasets", "trainers")


def run_script(script: str, arguments: Sequence[str]) -> None:
    """Do in this process what `python script arguments...` does."""
    sys.argv = [script, *arguments]
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    runpy.run_path(str(ROOT / script), run_name="__main__")


class Launcher:
    """Starts scripts of the repository one after the other."""

    def __init__(self, preload: Sequence[str] = PRELOAD) -> None:
        has_server = "forkserver" in multiprocessing.get_all_start_methods()
        self.context = multiprocessing.get_context("forkserver" if has_server else "spawn")
        if has_server:
            self.context.set_forkserver_preload(list(preload))
        paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))

    def call(self, script: str, arguments: Sequence[str]) -> int:
        """Run `python script arguments...` and wait; returns its exit status."""
        sys.stdout.flush()
        process = self.context.Process(target=run_script, args=(script, list(arguments)))
        process.start()
        try:
            process.join()
        except KeyboardInterrupt:
            process.join()  # the child got the signal too and ends by itself
            raise
        return process.exitcode or 0
