"""Data of step-based runs over several domains: endless training streams, fixed evaluation images.

A training batch is a function of (seed, stage, target, step) alone, so a stream has no state to
save. Evaluation images are resized once, kept as 8-bit pixels on disk, and shared by checkpoints,
stages, target domains and students. Specification: vl2v_adip, section 5.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dassl.data import DatasetWrapper
from dassl.data.datasets import Datum
from dassl.data.loader import EndableLoader
from dassl.data.seeding import seeded
from dassl.data.workers import WORTH_WORKERS, worker_options
from dassl.features.views import whole_image
from dassl.utils import atomic_write, cache_dir, ranks, read_image, write_json
from dassl.utils.files import take_space


def stable_seed(*parts: object) -> int:
    """A 32-bit seed that is a function of the parts, the same in every process and version."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(
        hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=4).digest(), "big"
    )


@dataclass
class DomainBatches:
    """Batch sampler: at every step the same number of draws, with replacement, per domain.

    Args:
        rows: for every domain, in order, the rows of its images in the item list.
        batch_size: draws per domain and step.
        key: what the draws depend on besides domain and step: (seed, stage, target).
    """

    rows: Sequence[Sequence[int]]
    batch_size: int
    key: tuple
    start: int = 0
    stop: int = 1

    def set_steps(self, start: int, stop: int) -> None:
        """Choose the steps start .. stop - 1 for the next pass."""
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stop):
            yield ranks.part(self.draw(step))

    def draw(self, step: int) -> list[tuple[int, int]]:
        """(row, augmentation seed) of every image of one step, domains one after the other."""
        draws = []
        for domain, rows in enumerate(self.rows):
            generator = torch.Generator().manual_seed(stable_seed(*self.key, domain, step))
            picks = torch.randint(len(rows), (self.batch_size,), generator=generator)
            seeds = torch.randint(2**32, (self.batch_size,), generator=generator)
            draws += [(rows[i], seed) for i, seed in zip(picks.tolist(), seeds.tolist())]
        return draws


class SeededViews(Dataset):
    """Augmented images; a view is a function of the image and the seed that comes with it.

    Args:
        items: the engine's dataset of training images.
    """

    def __init__(self, items: DatasetWrapper) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, draw: tuple[int, int]) -> dict:
        row, seed = draw
        with seeded(seed):
            return self.items[row]


class StepLoader(EndableLoader):
    """Endless training stream over domains; workers survive evaluations."""

    def __init__(
        self, views: SeededViews, batches: DomainBatches, *, workers: int, pins: bool = False
    ) -> None:
        """Args: pins: copy batches to page-locked memory, for a run on a GPU."""
        self.batches = batches
        super().__init__(
            views,
            batch_sampler=batches,
            **worker_options(workers),
            persistent_workers=workers > 0,
            pin_memory=pins,
        )

    def set_steps(self, start: int, stop: int) -> None:
        """Choose the steps of the next pass."""
        self.batches.set_steps(start, stop)

    def skip(self, batches: int) -> None:
        """Leave out the first batches of the next pass, without reading them."""
        self.batches.start += batches


def rows_by_domain(items: Sequence[Datum]) -> list[list[int]]:
    """Rows of the items of every domain, domains in ascending order."""
    groups: dict[int, list[int]] = {}
    for row, item in enumerate(items):
        groups.setdefault(item.domain, []).append(row)
    return [groups[domain] for domain in sorted(groups)]


class _Resized(Dataset):
    def __init__(self, items: Sequence[Datum], view: Callable[[Image.Image], Tensor]) -> None:
        self.items, self.view = items, view

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Tensor:
        return self.view(read_image(self.items[row].impath))


class ResizedImages:
    """Images resized to (H, W) whatever their aspect ratio, as 8-bit pixels.

    Args:
        items: N images.
        size: (H, W) in pixels.
        interpolation: bilinear | bicubic | nearest, with antialiasing.
        is_turned: apply the orientation tags of photographs.
        workers: processes that read files.
        limit: bytes up to which the pixels are kept on disk; more is read again every time.
    """

    def __init__(
        self,
        items: Sequence[Datum],
        *,
        size: tuple[int, int],
        interpolation: str = "bilinear",
        is_turned: bool = False,
        workers: int = 0,
        limit: int = 8 * 2**30,
    ) -> None:
        self.items = items
        self.size = (size[0], size[1])
        self.interpolation = interpolation
        self.is_turned = is_turned
        self.workers = workers
        self.labels = torch.tensor([item.label for item in items], dtype=torch.long)
        self.shape = (len(items), 3, *self.size)
        self.is_kept = int(np.prod(self.shape, dtype=np.int64)) <= limit

    def __len__(self) -> int:
        return len(self.items)

    def batches(self, batch_size: int) -> Iterator[Tensor]:
        """This process's batches (B, 3, H, W), uint8, in order; the last may be smaller."""
        starts = ranks.every(range(0, len(self.items), batch_size))
        if not self.is_kept:
            yield from self._read(self._rows(starts, batch_size))
            return
        stored = ranks.writer_first(self._stored)
        for start in starts:
            yield torch.from_numpy(np.array(stored[start : start + batch_size]))

    @property
    def path(self) -> Path:
        """Where the pixels are kept: depends on the files, their sizes and times, and the size."""
        how = (self.size, self.interpolation, *["upright"] * self.is_turned)
        digest = hashlib.sha256(repr(how).encode(errors="surrogateescape"))
        for item in self.items:
            status = os.stat(item.impath)
            digest.update(
                f"{item.impath}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(
                    errors="surrogateescape"
                )
            )
        return cache_dir() / "resized" / f"{digest.hexdigest()[:32]}.npy"

    def _rows(self, starts: Sequence[int], batch_size: int) -> list[list[int]]:
        return [list(range(len(self))[start : start + batch_size]) for start in starts]

    def _read(self, batches: list[list[int]]) -> DataLoader:
        view = partial(
            whole_image,
            size=self.size,
            interpolation=self.interpolation,
            is_turned=self.is_turned,
        )
        images = _Resized(self.items, view)
        workers = self.workers if len(images) >= WORTH_WORKERS else 0
        return DataLoader(images, batch_sampler=batches, **worker_options(workers))

    def _stored(self) -> np.ndarray:
        path = self.path
        if path.is_file():
            try:
                stored = np.load(path, mmap_mode="r")
            except (ValueError, EOFError):  # truncated: written again below
                stored = None
            if stored is not None and stored.shape == self.shape and stored.dtype == np.uint8:
                return stored
        with atomic_write(path) as temporary:
            target = np.lib.format.open_memmap(temporary, "w+", np.uint8, self.shape)
            take_space(temporary)
            row = 0
            for images in self._read(self._rows(range(0, len(self), 64), 64)):
                target[row : row + len(images)] = images.numpy()
                row += len(images)
            target.flush()
            del target
        folders = [os.path.dirname(item.impath) for item in self.items]
        write_json({"images": os.path.commonpath(folders)}, path.with_suffix(".json"))
        return np.load(path, mmap_mode="r")
