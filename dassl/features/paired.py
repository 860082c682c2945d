"""Two feature banks read as one: every image is decoded once, rows are side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dassl.data.datasets import Datum

from .bank import AUGMENTATION_SEED, FeatureBank, encode_together, fresh_together
from .encoder import Encoder
from .rows import FeatureView


class PairedView:
    """(V, N, D1 + D2) raw features: the rows of two views of the same images, side by side."""

    def __init__(self, first: FeatureView, second: FeatureView) -> None:
        self.parts = (first, second)

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.parts[0])

    @property
    def num_views(self) -> int:
        """Number of views V."""
        return self.parts[0].num_views

    def rows(self, indices: Tensor | Sequence[int], view: int | Tensor = 0) -> Tensor:
        """(n, D1 + D2) rows of some images, float32, on the CPU; see ``FeatureView.rows``."""
        return torch.cat([part.rows(indices, view) for part in self.parts], dim=1)


class PairedBank:
    """What a ``FeatureTrainer`` reads from a bank, for two encoders that see the same pixels.

    Args:
        first: its features are the first columns.
        second: its features follow.
    """

    def __init__(self, first: FeatureBank, second: FeatureBank) -> None:
        self.parts = (first, second)

    @property
    def encoder(self) -> Encoder:
        """The first encoder."""
        return self.parts[0].encoder

    def readable(self, items: Sequence[Datum]) -> list[Datum]:
        """The items whose images can be read, see ``FeatureBank.readable``."""
        return self.parts[0].readable(items)

    def test(self, items: Sequence[Datum]) -> PairedView:
        """The deterministic test view of every item."""
        return PairedView(*encode_together(self.parts, items))

    def train(
        self, items: Sequence[Datum], *, views: int, seed: int = AUGMENTATION_SEED
    ) -> PairedView:
        """Stored training views, see ``FeatureBank.train``."""
        return PairedView(*encode_together(self.parts, items, views=views, seed=seed))

    def fresh(self, items: Sequence[Datum], *, seed: int, epoch: int) -> Tensor:
        """(N, D1 + D2): a new training view of every item; nothing is stored."""
        return torch.cat(fresh_together(self.parts, items, seed=seed, epoch=epoch), dim=1)
