"""Base of the trainers whose image tower is frozen: they read features instead of pixels.

Training views come in two modes, TRAIN.VIEWS: ``fresh`` encodes a new augmented view of every image
in every epoch, in large batches (the official behaviour), and ``bank`` draws one of TRAIN.NUM_VIEWS
stored views per image and epoch. Test images are encoded once and kept in the feature bank.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.config import check_value, never, one_of, only_if
from dassl.data.datasets import Datum
from dassl.engine.state.resume import root_is_the_set
from dassl.features.bank import FeatureBank
from dassl.features.given import GivenBank
from dassl.features.paired import PairedBank
from dassl.features.precomputed import ConstantLoader
from dassl.features.rows import FeatureView
from dassl.features.views import Augmentation
from dassl.utils import ranks

from .clip_encoder import ClipEncoder
from .clip_trainer import ClipTrainer
from .view_costs import say_price


class FeatureTrainer(ClipTrainer):
    """``batch["features"]`` holds raw image features (B, D), float32, before L2 normalisation."""

    bank: Any  # of features: the one that ``build_bank`` gives, or a ``GivenBank``
    view_conditions = (
        only_if("TRAIN.NUM_VIEWS", "TRAIN.VIEWS", "bank"),
        never(
            ("DATALOADER.SEEDING", "DATALOADER.TEST.SAMPLER"),
            "features have an order and seeds of their own",
        ),
        never("INPUT.NORMALIZE_ON_DEVICE", "the encoder normalises, always on its device"),
    )

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        check_value("TRAIN.VIEWS", cfg.TRAIN.VIEWS, one_of("fresh", "bank"))
        sampler = cfg.DATALOADER.TRAIN_X.SAMPLER
        if sampler != "RandomSampler":
            raise ValueError(
                f"DATALOADER.TRAIN_X.SAMPLER is {sampler!r}, but {cls.__name__} reads image "
                "features in random order. Leave it at RandomSampler."
            )

    @classmethod
    def check_pixels(cls, cfg: CfgNode) -> None:
        """Any transforms will do: the encoder normalises."""

    def make_loaders(self) -> None:
        self.bank, self.train_loader_u = self.build_bank(), None
        dataset = self.dm.dataset
        if self.given_data:
            self.bank = GivenBank(self.bank, self.given_data)
            given = self.given_data.train_loader_x
            self.train_loader_x = None if given is None else given.mapped(self.bank.encode)
        else:
            self.train_loader_x = self.make_train_loader(self.bank.readable(dataset.train_x))
        self.val_loader = self.make_test_loader(dataset.val) if dataset.val else None
        self.test_loader = self.make_test_loader(dataset.test) if dataset.test else None

    @property
    def shots(self) -> Sequence[Datum]:
        """The labelled images that a cache or memory is made of."""
        return self.dm.dataset.train_x if self.given_data else self.train_loader_x.items

    def build_bank(self) -> FeatureBank | PairedBank:
        """The feature bank of this run's backbone and augmentation."""
        return FeatureBank(
            ClipEncoder(
                self.clip,
                mean=self.cfg.INPUT.PIXEL_MEAN,
                std=self.cfg.INPUT.PIXEL_STD,
                precision=self.encoding,
                digest=self.backbone_digest,
            ),
            Augmentation.from_cfg(self.cfg),
            workers=self.cfg.DATALOADER.NUM_WORKERS,
            device=self.device,
            skip_bad_images=self.cfg.DATALOADER.SKIP_BAD_IMAGES,
        )

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """A training batch -> (raw features, labels, domains) on the device."""
        return super().parse_batch_train({**batch, "img": batch["features"]})

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """A test batch -> (raw features, or constants made of them, and labels) on the device."""
        inputs = batch["constants"] if "constants" in batch else batch["features"]
        return super().parse_batch_test({**batch, "img": inputs})

    def raw_features(self, images: Tensor) -> Tensor:
        """Batches carry raw features already."""
        return images

    @property
    def view_mode(self) -> str:
        """How training views were made, as named in the results."""
        if self.given_data:
            return "given"
        if "train" not in self.labels_read():
            return "none"
        if self.cfg.TRAIN.VIEWS == "bank":
            return f"bank:{self.cfg.TRAIN.NUM_VIEWS}"
        return "fresh"

    def before_train(self) -> None:
        super().before_train()
        epochs = self.max_epoch - self.start_epoch
        is_read = "TRAIN.VIEWS" not in self.idle_settings(self.cfg)
        is_own = root_is_the_set(self.cfg.DATASET.NAME)
        if is_own and is_read and epochs > 0 and self.view_mode == "fresh":
            views = self.cfg.TRAIN.NUM_VIEWS
            say_price(self.bank, self.shots, epochs=epochs, views=views, seed=self.run_seed)

    def before_epoch(self) -> None:
        super().before_epoch()
        self.train_loader_x.set_epoch(self.epoch)

    def make_train_loader(self, items: Sequence[Datum]) -> "FeatureLoader":
        """The training batches: views of these images."""
        seed = self.run_seed

        def fresh(epoch: int) -> Callable[[Tensor], Tensor]:
            features = self.bank.fresh(items, seed=seed, epoch=epoch)
            return lambda rows: features[rows]

        @cache  # looked up once: stored views do not change
        def open_views() -> FeatureView:
            return self.bank.train(items, views=self.cfg.TRAIN.NUM_VIEWS)

        def banked(epoch: int) -> Callable[[Tensor], Tensor]:
            stored = open_views()
            generator = epoch_generator(seed, epoch, stream=1)
            views = torch.randint(stored.num_views, (len(items),), generator=generator)
            return lambda rows: stored.rows(rows, views[rows])

        size = self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE
        return FeatureLoader(
            items,
            banked if self.cfg.TRAIN.VIEWS == "bank" else fresh,
            batch_size=size,
            shuffle_seed=seed,
            drop_last=self.drop_last and len(items) >= size,
        )

    # The engine drops the last incomplete batch; AMU-style trainers keep it.
    drop_last = True

    @property
    def run_seed(self) -> int:
        """SEED, or the seed that torch was given where SEED is -1; int63."""
        return self.cfg.SEED if self.cfg.SEED >= 0 else torch.initial_seed() % 2**62

    def make_test_loader(self, items: Sequence[Datum]) -> "FeatureLoader | ConstantLoader":
        """The batches of a validation or test split."""
        items = self.bank.readable(items)

        @cache
        def open_rows() -> Callable[[Tensor], Tensor]:
            return self.bank.test(items).rows

        def stored(epoch: int) -> Callable[[Tensor], Tensor]:
            return open_rows()

        return FeatureLoader(items, stored, batch_size=self.cfg.DATALOADER.TEST.BATCH_SIZE)

    def constant_loader(
        self, items: Sequence[Datum], constants: Callable[[Tensor], list[Tensor]]
    ) -> ConstantLoader:
        """The batches of a split whose scores need the images only through ``constants``."""
        items = self.bank.readable(items)
        return ConstantLoader(
            items,
            lambda: self.bank.test(items).rows,
            constants,
            batch_size=self.cfg.DATALOADER.TEST.BATCH_SIZE,
            device=self.device,
        )


@dataclass
class FeatureLoader:
    """Batches of raw features in the engine's batch format; nothing is encoded before it is read.

    Args:
        items: the images.
        open_epoch: epoch -> function from row indices (n,) to features (n, D).
        batch_size: rows per batch.
        shuffle_seed: rows come in the order of (shuffle_seed, epoch); None keeps their order.
        drop_last: leave out the last incomplete batch.
    """

    items: Sequence[Datum]
    open_epoch: Callable[[int], Callable[[Tensor], Tensor]]
    batch_size: int
    shuffle_seed: int | None = None
    drop_last: bool = False
    epoch: int = 0

    def __post_init__(self) -> None:
        self.labels = torch.tensor([item.label for item in self.items])
        self.domains = torch.tensor([item.domain for item in self.items])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and views the next pass yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.items), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[dict]:
        features = self.open_epoch(self.epoch)
        batches = self.order().split(self.batch_size)[: len(self)]
        if self.shuffle_seed is None:  # of an evaluation
            batches = ranks.every(batches)
        else:
            batches = map(ranks.part, batches)
        for rows in batches:
            images = rows % len(self.items)
            yield {
                "features": features(rows),
                "label": self.labels[images],
                "domain": self.domains[images],
                "index": images,
                "impath": [self.items[i].impath for i in images.tolist()],
            }

    def order(self) -> Tensor:
        """(N,) row indices of this epoch, in order; row V * N + i is of image i."""
        if self.shuffle_seed is None:
            return torch.arange(len(self.items))
        generator = epoch_generator(self.shuffle_seed, self.epoch, stream=0)
        return torch.randperm(len(self.items), generator=generator)


def epoch_generator(seed: int, epoch: int, *, stream: int) -> torch.Generator:
    """A generator that depends on (seed, epoch, stream) alone; resuming needs no state."""
    mixed = (seed * 1_000_003 + epoch) * 7 + stream
    return torch.Generator().manual_seed(mixed % 2**63)
