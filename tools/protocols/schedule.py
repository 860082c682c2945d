"""Which run may start next: dependencies, what runs share, what failed and is tried again.

A schedule knows no processes and no clock: executors and the simulation of ``tools/scaling.py``
drive the same one.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from dassl.utils.interrupts import MACHINE, REQUEUES
from tools.protocols.plan import Run

LOST = 255  # the process that ran it, or its machine, is gone
MOST_RETRIES = 2  # of what the machine broke
MOST_REQUEUES = 20  # of what was preempted
SECONDS_BETWEEN = (5.0, 30.0)  # before the first and the second retry


class State(Enum):
    """What became of a run so far."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LEFT_OUT = "left out"  # what it needs did not finish


def is_prepared(run: Run) -> bool:
    """Whether a run has got past what it prepares for others: it trains, streams or is finished."""
    return any(True for _ in run.output_dir.glob("resume.*")) or bool(run.results())


class Schedule:
    """The runs of a protocol, and how far they are.

    Args:
        runs: in an order that respects ``needs``.
        keep_going: a failure ends only what depends on it.
        prepared: whether a running run has made what others share with it.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        keep_going: bool = False,
        prepared: Callable[[Run], bool] = is_prepared,
    ) -> None:
        self.runs, self.keep_going, self.prepared = list(runs), keep_going, prepared
        self.states = [State.WAITING] * len(self.runs)
        self.retries = [0] * len(self.runs)
        self.requeues = [0] * len(self.runs)
        self.is_stopped = False
        self._running: set[int] = set()
        self._waiting = len(self.runs)
        self._have: set[tuple[str, str]] = set()  # datasets and backbones that are prepared
        self._preparing: set[int] = set()  # running ones on others
        # those that wait for nothing but a place, in order, by what they share with others
        self._free: dict[tuple[str, str], list[int]] = {}
        self._dependants: dict[int, list[int]] = {}
        self._doomed: list[tuple[int, int]] = []  # and the run without which each cannot start
        by_folder = {run.output_dir: number for number, run in enumerate(self.runs)}
        for number, run in enumerate(self.runs):
            needed = None if run.needs is None else by_folder.get(run.needs.output_dir)
            if needed is None:
                self._release(number)
            else:
                self._dependants.setdefault(needed, []).append(number)

    def ready(self) -> Iterator[int]:
        """Numbers of the runs that may start now, first things first.

        The first run on a dataset and backbone renders, resizes and encodes what the others read:
        they wait until it trains.
        """
        if self.is_stopped:
            return
        self._note_prepared()
        begun = {_shared(self.runs[number]) for number in self._preparing}
        yield from heapq.merge(*(queue for key, queue in self._free.items() if key not in begun))

    def _note_prepared(self) -> None:
        for number in sorted(self._preparing):
            if self.prepared(self.runs[number]):
                self._have.add(_shared(self.runs[number]))
        self._preparing = {n for n in self._preparing if _shared(self.runs[n]) not in self._have}

    def _release(self, number: int) -> None:
        """A waiting run needs no other any more."""
        bisect.insort(self._free.setdefault(_shared(self.runs[number]), []), number)

    def start(self, number: int) -> None:
        """A run that was ready has begun."""
        queue = self._free[_shared(self.runs[number])]
        del queue[bisect.bisect_left(queue, number)]
        self.states[number] = State.RUNNING
        self._running.add(number)
        self._waiting -= 1
        if _shared(self.runs[number]) not in self._have:
            self._preparing.add(number)

    def end(self, number: int, status: int) -> float | None:
        """A run has ended; returns the seconds to wait before it is tried again, or None."""
        self._running.remove(number)
        self._preparing.discard(number)
        if status == 0:
            self.states[number] = State.DONE
            self._have.add(_shared(self.runs[number]))
            for each in self._dependants.get(number, ()):
                self._release(each)
            return None
        if (pause := self._pause(number, status)) is not None:
            self.states[number] = State.WAITING
            self._waiting += 1
            self._release(number)
            return pause
        self.states[number] = State.FAILED
        self._doom_dependants(number)
        if not (self.keep_going or self.runs[number].tolerant):
            self.is_stopped = True
        return None

    def _pause(self, number: int, status: int) -> float | None:
        if status in REQUEUES and self.requeues[number] < MOST_REQUEUES:
            self.requeues[number] += 1
            return 0.0
        is_machine = status in (MACHINE, LOST) or status < 0
        if is_machine and self.retries[number] < MOST_RETRIES:
            self.retries[number] += 1
            return SECONDS_BETWEEN[self.retries[number] - 1]
        return None

    def _doom_dependants(self, number: int) -> None:
        for each in self._dependants.get(number, ()):
            heapq.heappush(self._doomed, (each, number))

    def leave_out(self) -> Iterator[tuple[int, Run]]:
        """Mark and yield the runs that wait for one that failed, with that one."""
        while self._doomed and not self.is_stopped:
            number, needed = heapq.heappop(self._doomed)
            self.states[number] = State.LEFT_OUT
            self._waiting -= 1
            self._doom_dependants(number)
            yield number, self.runs[needed]

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing more will."""
        return not self._running and (self.is_stopped or not self._waiting)

    def failed(self) -> list[Run]:
        """The runs that failed or were left out, in order."""
        bad = (State.FAILED, State.LEFT_OUT)
        return [run for run, state in zip(self.runs, self.states, strict=True) if state in bad]


def _shared(run: Run) -> tuple[str, str]:
    return run.dataset, run.backbone
