"""Augmentation as a function of (seed, epoch, index) alone.

The sampler marks each index with its epoch (`SeededIndex`, an int that travels to the workers),
and the dataset seeds every generator from it before it makes the item. So the pixels depend
neither on the number of workers nor on which of them works when.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

from .given import GivenBatches
from .samplers import Order


class SeededIndex(int):
    """An item index that knows the epoch, and the pass within the epoch, it is drawn in."""

    epoch: int
    lap: int

    def __new__(cls, index: int, epoch: int, lap: int = 0) -> "SeededIndex":
        marked = super().__new__(cls, index)
        marked.epoch = epoch
        marked.lap = lap
        return marked

    def __reduce__(self):
        return SeededIndex, (int(self), self.epoch, self.lap)


def sample_seed(seed: int, epoch: int, index: int, lap: int = 0) -> int:
    """Return a 63-bit seed for one item of one epoch (of its second, third ... pass)."""
    key = f"{seed}/{epoch}/{index}" + (f"/{lap}" if lap else "")
    digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed `random`, NumPy and torch's CPU generator; restore them after, in the main process."""
    with kept_generators():
        reseed(seed)
        yield


def reseed(seed: int) -> None:
    """Seed `random`, NumPy and torch's CPU generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch CUDA, too


@contextmanager
def kept_generators() -> Iterator[None]:
    """Restore the three generators after, in the main process; NumPy's takes 0.1 ms."""
    in_worker = get_worker_info() is not None
    if not in_worker:
        states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    try:
        yield
    finally:
        if not in_worker:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


class SeededDataset(Dataset):
    """Makes the items of any dataset under the seed that their index carries.

    A plain index carries none: such an item is made under the global generators, as without this
    class. Everything else is the inner dataset's, for reading and for setting
    (`loader.dataset.transform = ...`).

    Attributes:
        changes: how often an attribute was set; kept worker processes have an older copy then.
    """

    def __init__(self, inner: Dataset, seed: int):
        vars(self).update(inner=inner, seed=seed, changes=0)

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        if not isinstance(index, SeededIndex):
            return self.inner[index]
        with seeded(sample_seed(self.seed, index.epoch, int(index), index.lap)):
            return self.inner[int(index)]

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)
        vars(self)["changes"] += 1


class EpochSampler(Sampler):
    """Marks the indices of another sampler with the epoch.

    Args:
        sampler: the order.
        advance: count passes (training): as epochs, or, once `set_epoch` was called, as laps
            within the epoch. Otherwise every pass is epoch 0, so that an evaluation gives the
            same result twice.

    Draws what the original's loader draws from torch's default generator: one number per pass (its
    base seed for workers), then whatever the sampler draws. So the order of the data equals the
    original's for a given seed, for any number of workers.
    """

    def __init__(self, sampler: Order, *, advance: bool):
        self.sampler = sampler
        self.advance = advance
        self.epoch = 0
        self.lap = 0
        self.skipped = 0  # indices that the next pass leaves out at its beginning
        self._is_told = False

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass belongs to."""
        self.epoch, self.lap, self._is_told = epoch, 0, True

    def __iter__(self) -> Iterator[SeededIndex]:
        epoch, lap = self.epoch, self.lap
        skipped, self.skipped = self.skipped, 0
        if self.advance and self._is_told:
            self.lap += 1
        elif self.advance:
            self.epoch += 1
        torch.empty((), dtype=torch.int64).random_()
        for index in islice(self.sampler, skipped, None):
            yield SeededIndex(int(index), epoch, lap)

    def __len__(self) -> int:
        return len(self.sampler)


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell a training loader which epoch comes next; other loaders are left alone.

    The engine's loop calls it before every epoch, so that a resumed run sees the same pixels.
    """
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    if isinstance(sampler, EpochSampler) and sampler.advance:
        sampler.set_epoch(epoch)
    elif isinstance(loader, GivenBatches):
        loader.set_epoch(epoch)
