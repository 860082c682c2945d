"""Do the runs of a plan on an executor: start what is ready, try again what the machine broke."""

from __future__ import annotations

import contextlib
import datetime
import io
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from dassl.engine.command.cli import free_pairs, make_parser
from dassl.engine.command.finished import recall
from dassl.utils.interrupts import INTERRUPTS, REQUEUES
from dassl.utils.locks import is_in_use
from tools.protocols.plan import Run
from tools.protocols.schedule import Schedule

SECONDS_BETWEEN = 1.0  # between two looks at what runs prepare and when retries are due


class Executor(Protocol):
    """Where runs are done: this machine, or others that see the same folders.

    Attributes:
        slots: how many runs are done at once.
    """

    slots: int

    def start(self, number: int, script: str, arguments: Sequence[str]) -> None:
        """Begin `python script arguments...`."""

    def wait(self, timeout: float | None = None) -> Mapping[int, int]:
        """Wait until something ends; number -> exit status. At most ``timeout`` seconds."""

    def stop(self, signum: int) -> None:
        """Pass a signal on and wait until all have ended."""


def execute(runs: Sequence[Run], executor: Executor, *, keep_going: bool = False) -> list[Run]:
    """Do all runs; returns those that failed or could not start.

    train.py skips what is finished, resumes what was interrupted and refuses a folder of another
    config: it alone sees whether config files or an evaluated model have changed since. Where it
    has left a note that nothing has, it is not started. A folder that another driver works in is
    left for last.
    """
    driver = _Driver(Schedule(runs, keep_going=keep_going), executor)
    try:
        driver.drive()
    except KeyboardInterrupt as err:
        executor.stop(getattr(err, "signum", signal.SIGINT))
        raise
    return driver.schedule.failed()


def is_known_as_finished(run: Run) -> bool:
    """Whether train.py would find at once that a run is finished: it need not be started then."""
    said = io.StringIO()  # what is wrong with the arguments: train.py will say it
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit, ValueError, OSError):
        args = make_parser().parse_args(run.arguments())
        free_pairs(args)
        return recall(args) is not None
    return False


class _Driver:
    def __init__(self, schedule: Schedule, executor: Executor) -> None:
        self.schedule, self.executor = schedule, executor
        self.running: dict[int, dict] = {}  # number -> results of an earlier run of it
        self.due: dict[int, float] = {}  # number -> time before which it is not tried again

    def drive(self) -> None:
        while not self.schedule.is_over:
            for number, needed in self.schedule.leave_out():
                head = self.head(number)
                print(f"{head}: left out, {needed.output_dir.as_posix()} did not finish.")
            while len(self.running) < self.executor.slots and self.start_next():
                pass
            if not self.running:
                time.sleep(SECONDS_BETWEEN if self.due else 0.0)
                continue
            is_alone = self.executor.slots == 1 and not self.due
            for number, status in self.executor.wait(None if is_alone else SECONDS_BETWEEN).items():
                self.end(number, status)

    def head(self, number: int) -> str:
        runs = self.schedule.runs
        return f"[{number + 1}/{len(runs)}] {runs[number].output_dir.as_posix()}"

    def start_next(self) -> bool:
        now = time.monotonic()
        ready = (n for n in self.schedule.ready() if self.due.get(n, 0.0) <= now)
        busy = None  # the first in whose folder another driver works
        for number in ready:
            if not is_in_use(self.schedule.runs[number].output_dir):
                break
            busy = number if busy is None else busy
        else:
            if busy is None or self.running:
                return False
            number = busy
        self.due.pop(number, None)
        run = self.schedule.runs[number]
        print(self.head(number), flush=True)
        self.running[number] = run.results()
        self.schedule.start(number)
        if is_known_as_finished(run):
            self.end(number + 1, 0)
        else:
            self.executor.start(number + 1, "train.py", run.arguments())
        return True

    def end(self, key: int, status: int) -> None:
        number = key - 1
        run, earlier = self.schedule.runs[number], self.running.pop(number)
        if status in INTERRUPTS:
            print(f"{self.head(number)}: interrupted.", file=sys.stderr)
            raise KeyboardInterrupt
        results = {} if status else run.results()
        lead = "  " if self.executor.slots == 1 else f"{self.head(number)}: "
        if results:
            is_old = earlier == results
            note = " (finished before; delete the folder to run again)" if is_old else ""
            print(f"{lead}{result_line(results)}{note}", flush=True)
        pause = self.schedule.end(number, status if status or results else 1)
        if results:
            return
        reason = f"exit status {status}" if status else "it wrote no results.json"
        if pause is not None:
            self.due[number] = time.monotonic() + pause
            why = "was preempted" if status in REQUEUES else f"failed ({reason})"
            when = f" in {pause:.0f} s" if pause else ""
            print(f"{self.head(number)}: {why}; started again{when}.", file=sys.stderr)
            return
        text = f"{self.head(number)}: failed ({reason}). To see it alone:\n  {run.command()}"
        print(text, file=sys.stderr)


def result_line(results: dict) -> str:
    """Accuracy (percent) of each split or classifier of a run, and how long it took."""
    chance = f" (chance {results['chance']:.2f}%)" if "chance" in results else ""
    accuracies = [
        f"{name} accuracy {metrics['accuracy']:.2f}%{chance}"
        for name, metrics in results["metrics"].items()
        if "accuracy" in metrics
    ]
    seconds = results.get("seconds", {}).get("total", 0.0)
    elapsed = datetime.timedelta(seconds=round(seconds))
    return f"{', '.join(accuracies) or 'nothing was tested'}; {elapsed}"
