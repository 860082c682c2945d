"""What a plan takes on many GPUs, by the planner that executors use; nothing is run, no clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.protocols.plan import Run
from tools.protocols.schedule import Schedule


@dataclass(frozen=True)
class Cost:
    """Seconds that a run takes.

    Attributes:
        host: without the GPU: start-up, reading images, what a step costs the CPU.
        gpu: with the GPU busy; runs that share one wait for each other here.
        prepare: of the first run on a dataset and backbone, for what the others then read.
    """

    host: float = 0.0
    gpu: float = 0.0
    prepare: float = 0.0

    def alone(self) -> float:
        """Seconds of a run that has a GPU to itself and finds everything prepared."""
        return self.host + self.gpu

    def shared(self, runs: int) -> float:
        """The same of one of so many on a GPU, which is never busy with two of them at once."""
        return max(self.alone(), runs * self.gpu)


@dataclass(frozen=True)
class Outcome:
    """Seconds from the first start to the last end, and how much of the slots' time was used."""

    seconds: float
    used: float


def simulate(
    runs: Sequence[Run], cost: Callable[[Run], Cost], *, gpus: int, per_gpu: int = 1
) -> Outcome:
    """Drive a schedule through all runs, none of which fails.

    Args:
        runs: a plan.
        cost: of each run.
        gpus: number of GPUs.
        per_gpu: runs on one GPU at once, at most; they spread over the GPUs.
    """
    now, used, running = 0.0, 0.0, 0
    ready_at: dict[Path, float] = {}  # output folder -> when what others share is prepared
    paid: set[tuple[str, str, float]] = set()
    schedule = Schedule(runs, prepared=lambda run: ready_at[run.output_dir] <= now)
    events: list[tuple[float, int]] = []  # number of a run that ends; -1: something is prepared
    while not schedule.is_over:
        while running < gpus * per_gpu and (number := next(schedule.ready(), None)) is not None:
            run = schedule.runs[number]
            each = cost(run)
            what = (run.dataset, run.backbone, each.prepare)  # the same work for equal costs
            prepare = 0.0 if what in paid else each.prepare
            paid.add(what)
            ready_at[run.output_dir] = now + prepare
            heapq.heappush(events, (now + prepare, -1))
            seconds = prepare + each.shared(running // gpus + 1)
            schedule.start(number)
            heapq.heappush(events, (now + seconds, number))
            running, used = running + 1, used + seconds
        now, ended = heapq.heappop(events)
        if ended >= 0:
            schedule.end(ended, 0)
            running -= 1
    return Outcome(now, used / (now * gpus * per_gpu))
