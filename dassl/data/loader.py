"""A loader whose worker processes survive between passes; otherwise torch's own."""

import weakref
from collections.abc import Iterator, Sized
from typing import Any, Protocol

import torch
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from .seeding import EpochSampler, SeededDataset


class EndableLoader(DataLoader):
    """A loader whose worker processes can be ended."""

    def end_workers(self) -> None:
        """End the worker processes, also of a pass that was given up.

        Left to the garbage collector, torch waits five seconds for each: its queues are gone first.
        """
        iterator, self._iterator = self._iterator, None
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()


class LastingLoader(EndableLoader):
    """Keeps its worker processes between passes, as long as nobody can tell.

    torch's persistent workers work on the dataset as it was when they started, serve one pass at a
    time, and cannot be copied. So fresh processes begin the pass after an attribute of the dataset
    was set, and a pass that begins while another one is under way; a copy of the loader (made by
    `copy.deepcopy`, say) has no processes yet.
    """

    dataset: SeededDataset
    _pass: "weakref.ref[_Pass] | None" = None  # dead: the pass was given up
    _changes = 0

    def __iter__(self) -> Any:  # a _Pass, where torch declares a private class
        latest = None if self._pass is None else self._pass()
        is_under_way = latest is not None and not latest.is_over
        if is_under_way or self._changes != self.dataset.changes:
            self._iterator = None  # a pass under way holds its own; idle processes end
        self._changes = self.dataset.changes
        latest = _Pass(super().__iter__(), self)
        self._pass = weakref.ref(latest)
        return latest

    def skip(self, batches: int) -> None:
        """Leave out the first batches of the next pass, without reading them."""
        batch_sampler = self.batch_sampler  # there where ``sampler`` and ``batch_size`` are not
        assert isinstance(batch_sampler, BatchSampler)
        assert isinstance(batch_sampler.sampler, EpochSampler)
        batch_sampler.sampler.skipped = batches * batch_sampler.batch_size

    def __del__(self) -> None:
        if hasattr(self, "_iterator"):
            self.end_workers()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_iterator": None, "_pass": None, "generator": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, generator=torch.Generator())  # draws nothing that matters


class _Batches(Sized, Iterator[Any], Protocol):
    """What torch iterates with."""


class _Pass:
    """One pass: yields its batches and knows whether it is over."""

    def __init__(self, batches: _Batches, loader: LastingLoader):
        self.batches, self.loader = batches, loader  # which ends the processes when it goes
        self.is_over = False

    def __iter__(self) -> "_Pass":
        return self

    def __next__(self) -> Any:
        try:
            return next(self.batches)
        except StopIteration:
            self.is_over = True
            raise

    def __len__(self) -> int:
        return len(self.batches)
