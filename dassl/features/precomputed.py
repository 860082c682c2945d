"""A test loader for methods whose scores need the images only through frozen numbers.

These are computed in the first pass, in row blocks, and kept on the device: every later evaluation
of the same split reads them, without a copy. Nothing that training changes may enter them.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dassl.data.datasets import Datum

Constants = Sequence[Tensor]


class ConstantLoader:
    """Batches whose ``constants`` are a list of tensors (B, ...), in the order of the items.

    Args:
        items: the images.
        rows: opens the raw features: () -> function from places (n,) to (n, D).
        constants: (n, D) raw features on the device -> tensors of n rows each.
        batch_size: rows per batch.
        device: where the constants stay.
    """

    def __init__(
        self,
        items: Sequence[Datum],
        rows: Callable[[], Callable[[Tensor], Tensor]],
        constants: Callable[[Tensor], Constants],
        *,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self.items, self.batch_size, self.device = items, batch_size, device
        self.labels = torch.tensor([item.label for item in items], device=device)
        self._open, self._constants = rows, constants
        self._kept: list[Tensor] | None = None

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    @torch.no_grad()
    def kept(self) -> list[Tensor]:
        """The constants of all N items; computed once."""
        if self._kept is None:
            read = self._open()
            blocks = torch.arange(len(self.items)).split(self.batch_size)
            parts = [self._constants(read(block).to(self.device)) for block in blocks]
            self._kept = [torch.cat(column) for column in zip(*parts, strict=True)]
        return self._kept

    def __iter__(self) -> Iterator[dict]:
        kept = self.kept()
        for begin in range(0, len(self.items), self.batch_size):
            rows = slice(begin, begin + self.batch_size)
            yield {
                "constants": [column[rows] for column in kept],
                "label": self.labels[rows],
                "impath": [item.impath for item in self.items[rows]],
            }
