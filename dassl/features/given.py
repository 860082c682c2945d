"""The feature bank of a run over given tensors: nothing is read from files or stored."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dassl.data import GivenData
from dassl.data.datasets import Datum

from .bank import AUGMENTATION_SEED, FeatureBank
from .encoder import Encoder
from .paired import PairedBank

BLOCK = 256  # images per forward pass


class GivenView:
    """(V, N, D) raw features in memory, with the interface of ``FeatureView``."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def __len__(self) -> int:
        """Number of images N."""
        return self.features.shape[1]

    @property
    def num_views(self) -> int:
        """Number of views V."""
        return len(self.features)

    def rows(self, indices: Tensor | Sequence[int], view: int | Tensor = 0) -> Tensor:
        """(n, D) rows of some images; one view for all, or (n,) one view each."""
        return self.features[view, torch.as_tensor(indices)]

    def all(self, view: int | None = None) -> Tensor:
        """All rows of one view, (N, D); of all views, (V, N, D), if it is None."""
        return self.features if view is None else self.features[view]

    def mean(self) -> Tensor:
        """(N, D) mean over the views, of raw features."""
        return self.features.mean(dim=0)


@dataclass
class GivenPart:
    """One encoder's columns of a ``GivenBank``."""

    bank: "GivenBank"
    encoder: Encoder
    columns: slice

    def train(
        self, items: Sequence[Datum], *, views: int, seed: int = AUGMENTATION_SEED
    ) -> GivenView:
        """See ``GivenBank.train``."""
        whole = self.bank.train(items, views=views, seed=seed)
        return GivenView(whole.features[..., self.columns])


class GivenBank:
    """What a trainer reads from a bank, of the images that ``from_parts`` was given.

    ``img`` of a batch is the test view, ``views`` are the stored (or further test) views. Both hold
    normalised pixels, 8-bit pixels, or raw features.

    Args:
        bank: of the run; its encoders encode given pixels.
        data: what was given; an image is known by its ``impath``.
    """

    def __init__(self, bank: FeatureBank | PairedBank, data: GivenData) -> None:
        banks = bank.parts if isinstance(bank, PairedBank) else (bank,)
        self.encoders: list[Encoder] = [each.encoder for each in banks]
        self.data = data
        self._places: dict[str, tuple[str, int]] = {}  # path -> split, row
        self._features: dict[tuple[str, str], Tensor] = {}
        for split, loader in data.loaders.items():
            for row, item in enumerate(loader.items):
                self._places[item.impath] = split, row

    @property
    def encoder(self) -> Encoder:
        """The first encoder."""
        return self.encoders[0]

    @property
    def parts(self) -> list[GivenPart]:
        """One part per encoder, in the order of the columns."""
        parts, first = [], 0
        for encoder in self.encoders:
            parts.append(GivenPart(self, encoder, slice(first, first + encoder.dim)))
            first += encoder.dim
        return parts

    @property
    def dim(self) -> int:
        """Feature width D, of all encoders side by side."""
        return sum(encoder.dim for encoder in self.encoders)

    def readable(self, items: Sequence[Datum]) -> list[Datum]:
        """All of the items: no file can be broken."""
        return list(items)

    def close(self) -> None:
        """Nothing is open."""

    def test(self, items: Sequence[Datum]) -> GivenView:
        """The test view of every item."""
        return GivenView(self._rows(items, "img")[None])

    def train(
        self, items: Sequence[Datum], *, views: int, seed: int = AUGMENTATION_SEED
    ) -> GivenView:
        """The first ``views`` stored views of every item; ``seed`` plays no part.

        Raises:
            ValueError: if fewer views are given.
        """
        given = self._rows(items, "views")
        if given.shape[1] < views:
            raise ValueError(
                f"The run reads {views} views of every image, and {given.shape[1]} are given. "
                f'Give batches with "views" (B, {views}, ...).'
            )
        return GivenView(given[:, :views].transpose(0, 1))

    def encode(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) pixels -> (..., D) raw features; features (B, D), (B, V, D) pass.

        Raises:
            ValueError: for normalised pixels where two networks normalise each in its own way.
        """
        if images.ndim < 4:
            return images.float()
        is_raw = images.dtype == torch.uint8
        if not is_raw and len(self.encoders) > 1:
            names = " and ".join(encoder.name for encoder in self.encoders)
            raise ValueError(
                f"{names} normalise pixels each in its own way. Give 8-bit pixels (uint8), or the "
                "raw features of both side by side."
            )
        blocks = images.flatten(0, -4).split(BLOCK)
        columns = [
            torch.cat([encoder(part) if is_raw else encoder.encode(part) for part in blocks])
            for encoder in self.encoders
        ]
        return torch.cat(columns, dim=1).unflatten(0, images.shape[:-3])

    def _rows(self, items: Sequence[Datum], key: str) -> Tensor:
        """(N, D) for img, (N, V, D) for views; without views, V = 0."""
        rows = [self._places[item.impath] for item in items]
        splits = {split for split, _ in rows}
        features = {split: self._encoded(split, key) for split in splits}
        return torch.stack([features[split][row] for split, row in rows])

    def _encoded(self, split: str, key: str) -> Tensor:
        """All rows of a split, encoded at first use."""
        if (split, key) not in self._features:
            batches = self.data.loaders[split].batches
            none = [torch.zeros(len(batch["label"]), 0, self.dim) for batch in batches]
            parts = [self.encode(batch.get(key, zero)) for batch, zero in zip(batches, none)]
            self._features[split, key] = torch.cat([part.cpu() for part in parts])
        return self._features[split, key]
