"""Run scripts in child processes that share one start-up.

Importing torch takes seconds. A fork server imports it once; every run is then a fresh fork of the
server: as isolated as a process of its own (a crash ends the run, not the protocol), without the
import. Where the platform has no fork server, every run is spawned.

The console then shows progress and messages alone; a run's log.txt has all that it prints.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from dassl.terminal import show_anything
from dassl.utils import interrupts

OURS = __name__.removesuffix("tools.protocols.launcher")  # "vltune." in a wheel, else ""
ROOT = Path(__file__).resolve().parents[2]
SERVER = f"{OURS}tools.protocols.server"
HOME = ROOT.parent if OURS else ROOT  # what has to be on sys.path
PRELOAD = (
    "torch",
    "torchvision",
    "scipy.optimize",  # fits the temperature of every run
    *(f"{OURS}{name}" for name in ("dassl.engine.command.run", "datasets", "trainers.common")),
)
PROGRESS = re.compile(r"epoch \[(\d+)/(\d+)\] batch \[(\d+)/(\d+)\]")
NEWS = ("Extracting ", "Continue the interrupted run")  # what else is shown
SECONDS_BETWEEN = 10.0  # between two progress lines
MOST_WARNINGS = 256  # that are remembered
ONCE = ("WARNING", "folder:", "csv:")  # lines that begin so; the others say how a set is read
# what these tell is in results.json, and the same for every run
QUIET = tuple(
    f"{OURS}{name}"
    for name in (
        *("dassl.engine.records.report", "dassl.engine.command.run", "dassl.engine.records.writer"),
        "trainers.common.checkpoints",
    )
)


class Labelled:
    """A stand-in for stdout or stderr that prints whole lines, each with a prefix.

    Args:
        console: where they are printed.
        prefix: begins every line.
        is_shown: which lines are printed.
    """

    def __init__(
        self, console: TextIO, prefix: str = "", is_shown: Callable[[str], bool] = bool
    ) -> None:
        self.console, self.prefix, self.is_shown = console, prefix, is_shown
        self._line = ""

    def write(self, text: str) -> int:
        """Print the lines that are complete and shown; progress bars pass as they are."""
        if "\r" in text:
            return self.console.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in filter(self.is_shown, lines):
            self.console.write(f"{self.prefix}{line}\n")
            self.console.flush()
        return len(text)

    def __getattr__(self, name: str) -> Any:
        if name == "console":
            raise AttributeError(name)
        return getattr(self.console, name)


class Progress:
    """Whether a line of a run is shown: progress, now and then, and little else."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, line: str) -> bool:
        found = PROGRESS.match(line)
        if found is None:
            return line.startswith(NEWS)
        epoch, epochs, batch, batches = found.groups()
        is_last = (epoch, batch) == (epochs, batches)
        if not is_last and time.monotonic() - self._last < SECONDS_BETWEEN:
            return False
        self._last = time.monotonic()
        return True


class SaidOnce:
    """Whether a line is shown: no line of ``ONCE`` that another run of this launcher has printed.

    Args:
        said: digests of these lines, shared by all runs; 0: free.
    """

    def __init__(self, said: Any) -> None:
        self.said = said

    def __call__(self, line: str) -> bool:
        if not line.startswith(ONCE):
            return bool(line)
        digest = zlib.crc32(line.encode(errors="replace")) or 1
        with self.said.get_lock():
            digests = list(self.said)
            if digest in digests:
                return False
            if 0 in digests:
                self.said[digests.index(0)] = digest
        return True


@dataclass(frozen=True)
class Share:
    """What of the machine a script gets.

    Attributes:
        threads: of torch on the CPU; 0: as many as there are cores.
        gpu: the only one that it sees; empty: all.
    """

    threads: int = 0
    gpu: str = ""

    def take(self) -> None:
        """Make it so, in the process of the script."""
        if self.gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.threads:
            import torch

            torch.set_num_threads(self.threads)


def run_script(
    script: str,
    arguments: Sequence[str],
    *,
    brief: bool = False,
    prefix: str = "",
    share: Share = Share(),
    said: Any = None,
) -> None:
    """Do in this process what `python script arguments...` does.

    The process ends with the one that started it, as by SIGTERM.

    Args:
        brief: show progress and messages alone.
        prefix: begins each line on the console.
        said: where warnings of all runs are noted, so that each is printed once.
    """
    sys.argv = [script, *arguments]
    if str(HOME) not in sys.path:
        sys.path.insert(0, str(HOME))
    if OURS:
        import_module("vltune.cli").name_commands()
    if brief or prefix:
        show_anything()
        sys.stdout = Labelled(sys.stdout, prefix, Progress() if brief else lambda line: True)
    if said is not None:
        sys.stderr = Labelled(sys.stderr, prefix, SaidOnce(said))
    if brief:
        for name in QUIET:
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        interrupts.watch()
        interrupts.follow_parent()
        share.take()
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except KeyboardInterrupt as err:  # not within what the script guards
        interrupts.stand_by()
        sys.exit(interrupts.exit_status(err))


class Launcher:
    """Starts scripts of the repository in processes of this machine.

    Args:
        preload: modules that the fork server imports.
        brief: of what train.py prints, show progress alone.
        slots: how many may run at once; threads and GPUs are divided among them.
    """

    def __init__(
        self, preload: Sequence[str] = PRELOAD, *, brief: bool = False, slots: int = 1
    ) -> None:
        self.brief, self.slots = brief, slots
        self.shares = shares(slots)
        self._running: dict[int, tuple[Any, Share]] = {}  # number -> process and what it has
        has_server = "forkserver" in multiprocessing.get_all_start_methods()
        self.context: Any = multiprocessing.get_context("forkserver" if has_server else "spawn")
        if has_server:
            self.context.set_forkserver_preload([SERVER, *preload])
        self.said = self.context.Array("Q", MOST_WARNINGS)
        paths = [str(HOME), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads, see train.py

    def call(self, script: str, arguments: Sequence[str]) -> int:
        """Run `python script arguments...` and wait; returns its exit status.

        Raises:
            Interruption: a signal came; the script got it, too, and has ended.
        """
        self.start(0, script, arguments)
        try:
            return self.wait()[0]
        except KeyboardInterrupt as err:
            self.stop(getattr(err, "signum", signal.SIGINT))
            raise

    def start(self, number: int, script: str, arguments: Sequence[str]) -> None:
        """Begin `python script arguments...` under a number; one of the slots must be free."""
        sys.stdout.flush()
        free = list(self.shares)
        for _, taken in self._running.values():
            free.remove(taken)
        process = self.context.Process(
            target=run_script,
            args=(script, list(arguments)),
            kwargs={
                **self._shown(number, is_run=script == "train.py"),
                "share": free[0],
            },
        )
        process.start()
        self._running[number] = process, free[0]

    def _shown(self, number: int, *, is_run: bool) -> dict[str, Any]:
        """What of a script's output appears, and how."""
        if not is_run:
            return {}
        prefix = f"  [{number}] " if self.slots > 1 else "  " if self.brief else ""
        return {"brief": self.brief, "prefix": prefix, "said": self.said}

    def wait(self, timeout: float | None = None) -> dict[int, int]:
        """Wait until something ends, at most ``timeout`` seconds; number -> exit status."""
        multiprocessing.connection.wait(
            [process.sentinel for process, _ in self._running.values()], timeout
        )
        ended = {}
        for number, (process, _) in list(self._running.items()):
            if not process.is_alive():
                process.join()
                ended[number] = process.exitcode or 0
                del self._running[number]
        return ended

    def stop(self, signum: int) -> None:
        """Pass a signal on and wait: every run keeps its state. A second signal kills them."""
        try:
            for process, _ in self._running.values():
                if process.is_alive():
                    os.kill(process.pid, signum)
            while self._running:
                self.wait()
        except KeyboardInterrupt:
            for process, _ in self._running.values():
                process.kill()
            raise


def shares(slots: int) -> list[Share]:
    """What each of ``slots`` runs at once gets: a part of the threads, and one GPU.

    OMP_NUM_THREADS, where it is set, says the threads of each.
    """
    if slots == 1:
        return [Share()]
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdecimal() else max(1, cores() // slots)
    gpus = visible_gpus() or [""]
    return [Share(threads, gpus[slot % len(gpus)]) for slot in range(slots)]


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them; found without torch."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.split()
