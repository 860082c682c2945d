"""Where a run is within an epoch: state that resumes after any step.

The file that a run resumes from is written at epoch ends, when a signal ends the run, and every
minute of a long epoch. Within an epoch it holds the number of batches that are done and the random
states of the epoch's beginning besides those of the step: the order of the data is drawn again from
the first, batches that are done are left out, and training resumes with the second.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dassl.utils import MetricMeter, interrupts, ranks

from .rng import load_rng_state, loader_generators, rng_state

if TYPE_CHECKING:
    from ..base import TrainerBase

SECONDS_BETWEEN = 60.0  # between two files within an epoch, at least
LEAST_RATIO = 20  # seconds of training per second of writing, at least


class PartialEpoch:
    """The place of a run in its epoch.

    Attributes:
        done: batches of this epoch that are done.
        is_exact: whether the epoch's batches can be drawn again up to a place (one loader).
        losses: averages of what the epoch's batches logged.
    """

    def __init__(self, trainer: "TrainerBase") -> None:
        self.trainer = trainer
        self.done = 0
        self.is_exact = False
        self.losses = MetricMeter()
        self._begin: dict[str, Any] = {}  # random states at the beginning of the epoch
        self._here: dict[str, Any] | None = None  # those to go on with, in a resumed epoch
        self._last, self._cost = time.monotonic(), 0.0

    @contextlib.contextmanager
    def of_epoch(self) -> Iterator[None]:
        """Around an epoch: a signal waits for a safe point, and the state is kept at the end."""
        with interrupts.deferred(self.trainer.cfg.TRAIN.GRACE_SECONDS):
            self._begin_epoch()
            yield
            self._end_epoch()

    def _begin_epoch(self) -> None:
        """An epoch begins, or resumes after ``done`` batches."""
        self.is_exact = False
        if self._here is not None:
            self._set(self._begin)
            return
        self.done, self.losses = 0, MetricMeter()
        self._begin = self._states()

    def first(self) -> int:
        """The number of the first batch that is trained on next: 0, once the place is taken up."""
        return 0 if self._here is None else self.done

    def _end_epoch(self) -> None:
        trainer, resume = self.trainer, self.trainer._resume_file
        if trainer._metrics_log is not None:
            trainer._metrics_log.flush()
        self.done = 0
        if resume is not None:
            is_last = trainer.stop or trainer.epoch + 1 == trainer.max_epoch
            is_pending = ranks.any_true(interrupts.is_pending())
            resume.save(trainer, trainer.epoch + 1, force=is_last or is_pending)
            if is_pending:
                interrupts.stop(f"epoch {trainer.epoch + 1}; state saved in {resume.path}")

    def batches(self, loader: Any) -> Iterator[Any]:
        """The batches of the epoch that are not done yet."""
        self.is_exact = True
        if self._here is None:
            return iter(loader)
        return self._rest(loader)

    def _rest(self, loader: Any) -> Iterator[Any]:
        here, self._here = self._here, None
        assert here is not None
        if hasattr(loader, "skip"):  # nothing of what is left out is read
            loader.skip(self.done)
            batches = iter(loader)
            first = list(_up_to(batches, 1))  # draws the order
        else:
            batches, first = iter(loader), []
            for _ in _up_to(batches, self.done):
                pass
        self._set(here)
        yield from first
        yield from batches

    def after_step(self) -> None:
        """A safe point: keep the state if that is due, and end here if a signal came.

        Raises:
            Interruption
        """
        self.done += 1
        resume = self.trainer._resume_file
        is_pending, start = ranks.any_true(interrupts.is_pending()), time.monotonic()
        if resume is None or not self.is_exact:
            return
        if is_pending or start - max(self._last, resume.last) > self._interval():
            self.trainer.read_losses()
            if self.trainer._metrics_log is not None:
                self.trainer._metrics_log.flush()
            resume.save(self.trainer, self.trainer.epoch, force=True, within=True)
            self._last = time.monotonic()
            self._cost = self._last - start
        if is_pending:
            place = self.trainer._place()
            interrupts.stop(f"{place}; state saved in {resume.path}")

    def _interval(self) -> float:
        return max(SECONDS_BETWEEN, LEAST_RATIO * self._cost)

    # ----------------------------------------------------------------- state
    def state(self) -> dict[str, Any]:
        """For the resume file."""
        return {
            "done": self.done,
            "begin": self._begin,
            "losses": {name: vars(meter) for name, meter in self.losses.meters.items()},
            "epoch": self.trainer.epoch_state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take up a state; the trainer's random states are those of the step."""
        self.done, self._begin = state["done"], state["begin"]
        self._here = self._states()
        for name, values in state["losses"].items():
            vars(self.losses.meters[name]).update(values)
        self.trainer.load_epoch_state(state["epoch"])

    def _states(self) -> dict[str, Any]:
        generators = loader_generators(self.trainer.loaders())
        return {
            "rng": rng_state(),
            "generators": {name: generator.get_state() for name, generator in generators},
        }

    def _set(self, states: dict[str, Any]) -> None:
        generators = dict(loader_generators(self.trainer.loaders()))
        for name, value in states["generators"].items():
            generators[name].set_state(value.cpu())
        load_rng_state(states["rng"])


def _up_to(batches: Iterator[Any], count: int) -> Iterator[Any]:
    for _ in range(count):
        try:
            yield next(batches)
        except StopIteration:
            return
