"""Rows of a feature bank for a list of images, read from the mapped files when asked for."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dassl.data.datasets import Datum

from .store import Rows

ROWS_AT_ONCE = 8192  # of a mean over views


class FeatureView:
    """(V, N, D) raw features, float32, not normalised; nothing is in memory until it is asked for.

    Args:
        stored: the rows on disk.
        records: (V, N) record numbers of them; -1 for skipped images.
        items: the N images.
    """

    def __init__(self, stored: Rows, records: np.ndarray, items: Sequence[Datum]) -> None:
        self._stored, self._records, self._items = stored, records, items

    def __len__(self) -> int:
        """Number of images N."""
        return self._records.shape[1]

    @property
    def num_views(self) -> int:
        """Number of views V; 1 for the test view."""
        return self._records.shape[0]

    @property
    def dim(self) -> int:
        """Feature width D."""
        return self._stored.dim

    def rows(self, indices: Tensor | Sequence[int], view: int | Tensor = 0) -> Tensor:
        """Rows of some images.

        Args:
            indices: (n,) places in the list of items.
            view: one view for all, or (n,) one view each.

        Returns:
            (n, D) float32, on the CPU.

        Raises:
            IndexError: for a view or place that is not there.
            ValueError: for the row of an image that was skipped.
        """
        places = np.asarray(indices, dtype=np.int64).reshape(-1)
        views = np.asarray(view, dtype=np.int64)
        if views.size and not (views.min() >= 0 and views.max() < self.num_views):
            raise IndexError(f"view is {view}; there are {self.num_views} views, from 0.")
        records = self._records[views, places]
        if records.size and records.min() < 0:
            path = self._items[places[int(records.argmin())]].impath
            raise ValueError(
                f"{path} was skipped because it cannot be read: it has no features. Work on "
                "bank.readable(items)."
            )
        return torch.from_numpy(self._stored.gather(records))

    def all(self, view: int | None = None) -> Tensor:
        """All rows of one view, (N, D); of all views, (V, N, D), if it is None."""
        if view is not None:
            return self.rows(range(len(self)), view)
        return torch.stack([self.all(view) for view in range(self.num_views)])

    def mean(self) -> Tensor:
        """(N, D) mean over the views, of raw features; never more than one view is in memory."""
        total = torch.zeros(len(self), self.dim)
        for begin in range(0, len(self), ROWS_AT_ONCE):
            places = range(begin, min(begin + ROWS_AT_ONCE, len(self)))
            for view in range(self.num_views):
                total[begin : begin + len(places)] += self.rows(places, view)
        return total / self.num_views
