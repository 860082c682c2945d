"""Which run may start next: dependencies, what runs share, what failed and is tried again.

A schedule knows no processes and no clock: executors and the simulation of ``tools/scaling.py``
drive the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum

from dassl.utils.interrupts import MACHINE, REQUEUE
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
        self._by_folder = {run.output_dir: number for number, run in enumerate(self.runs)}
        self._have: set[tuple[str, str]] = set()  # datasets and backbones that are prepared

    def ready(self) -> Iterator[int]:
        """Numbers of the runs that may start now, first things first.

        The first run on a dataset and backbone renders, resizes and encodes what the others read:
        they wait until it trains.
        """
        if self.is_stopped:
            return
        self._note_prepared()
        begun = {_shared(self.runs[n]) for n in self._in(State.RUNNING)} - self._have
        for number in self._in(State.WAITING):
            if self._may_start(self.runs[number]) and _shared(self.runs[number]) not in begun:
                yield number

    def _note_prepared(self) -> None:
        for number in self._in(State.RUNNING):
            key = _shared(self.runs[number])
            if key not in self._have and self.prepared(self.runs[number]):
                self._have.add(key)

    def _needed(self, run: Run) -> int | None:
        """Number of the run that this one needs, if that is one of these."""
        return None if run.needs is None else self._by_folder.get(run.needs.output_dir)

    def _may_start(self, run: Run) -> bool:
        needed = self._needed(run)
        return needed is None or self.states[needed] is State.DONE

    def start(self, number: int) -> None:
        """A run has begun."""
        self.states[number] = State.RUNNING

    def end(self, number: int, status: int) -> float | None:
        """A run has ended; returns the seconds to wait before it is tried again, or None."""
        if status == 0:
            self.states[number] = State.DONE
            self._have.add(_shared(self.runs[number]))
            return None
        if (pause := self._pause(number, status)) is not None:
            self.states[number] = State.WAITING
            return pause
        self.states[number] = State.FAILED
        if not (self.keep_going or self.runs[number].tolerant):
            self.is_stopped = True
        return None

    def _pause(self, number: int, status: int) -> float | None:
        if status == REQUEUE and self.requeues[number] < MOST_REQUEUES:
            self.requeues[number] += 1
            return 0.0
        is_machine = status in (MACHINE, LOST) or status < 0
        if is_machine and self.retries[number] < MOST_RETRIES:
            self.retries[number] += 1
            return SECONDS_BETWEEN[self.retries[number] - 1]
        return None

    def leave_out(self) -> Iterator[tuple[int, Run]]:
        """Mark and yield the runs that wait for one that failed, with that one."""
        if self.is_stopped:
            return
        for number in self._in(State.WAITING):
            needed = self._needed(self.runs[number])
            if needed is not None and self.states[needed] in (State.FAILED, State.LEFT_OUT):
                self.states[number] = State.LEFT_OUT
                yield number, self.runs[needed]

    def _in(self, state: State) -> list[int]:
        return [number for number, each in enumerate(self.states) if each is state]

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing more will."""
        waits = not self.is_stopped and State.WAITING in self.states
        return not waits and State.RUNNING not in self.states

    def failed(self) -> list[Run]:
        """The runs that failed or were left out, in order."""
        bad = (State.FAILED, State.LEFT_OUT)
        return [run for run, state in zip(self.runs, self.states, strict=True) if state in bad]


def _shared(run: Run) -> tuple[str, str]:
    return run.dataset, run.backbone
