"""The trainer of ZS-LP and CLAP."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import never
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import STORED_VIEWS
from dassl.features.rows import FeatureView
from trainers.common import FeatureTrainer, Method
from trainers.common.feature_trainer import FeatureLoader
from trainers.common.method import Names, State
from trainers.common.text.encode import template_features
from trainers.common.text.templates import ensemble_templates

from .method import Prototypes, class_multipliers
from .settings import AdapterSettings, CLAPSettings


class RowLoader(FeatureLoader):
    """All V * N rows shuffled in every epoch; only as many batches as N images give are used."""

    views: int = 1

    def order(self) -> Tensor:
        """Places in V * N rows: view * N + image."""
        generator = torch.Generator().manual_seed(
            ((self.shuffle_seed or 0) * 1_000_003 + self.epoch) % 2**63
        )
        rows = torch.randperm(self.views * len(self.items), generator=generator)
        return rows[: len(self) * self.batch_size]


@TRAINER_REGISTRY.register()
class CLAP(FeatureTrainer):
    """Trains the prototypes on VIEWS stored training views of every shot."""

    method: Prototypes
    declares = (CLAPSettings,)
    model_name = "adapter"
    takes_shots = True
    own_conditions = (never(STORED_VIEWS, "it stores TRAINER.CLAP.VIEWS views of every shot"),)

    @property
    def view_mode(self) -> str:
        """The method's own stored views."""
        return f"bank:{self.settings.views}"

    @classmethod
    def templates(cls, cfg: CfgNode) -> list[str]:
        return ensemble_templates(cfg)

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        features = template_features(
            clip, classnames, cls.templates(cfg), replace_underscores=False
        )
        return cls.prototypes(cfg, features.mean(dim=0).float())

    @classmethod
    def restore_method(cls, cfg: CfgNode, clip: CLIP, classnames: Names, state: State) -> Method:
        return cls.prototypes(cfg, state["base_text_features"])

    @classmethod
    def prototypes(cls, cfg: CfgNode, base: Tensor) -> Prototypes:
        """The method that starts at a base (C, D), not normalised."""
        return Prototypes(base, cls.declares[0].of(cfg))

    @classmethod
    def class_words(cls, cfg: CfgNode, classname: str) -> str:
        return classname  # parity: as it is, underscores included

    def make_train_loader(self, items: Sequence[Datum]) -> RowLoader:
        @cache
        def open_views() -> FeatureView:
            return self.bank.train(items, views=self.settings.views)

        def stored(epoch: int) -> Callable[[Tensor], Tensor]:
            view = open_views()
            return lambda rows: view.rows(rows % len(items), rows // len(items))

        size = self.cfg.DATALOADER.TRAIN_X.BATCH_SIZE
        loader = RowLoader(
            items,
            stored,
            batch_size=size,
            shuffle_seed=self.run_seed,
            drop_last=len(items) >= size,
        )
        loader.views = self.settings.views
        return loader

    def before_train(self) -> None:
        super().before_train()
        if self.start_epoch == 0:
            self.method.multipliers.copy_(self.multipliers())

    @torch.no_grad()
    def multipliers(self) -> Tensor:
        """lambda (C,) over all VIEWS * N training rows."""
        items = self.shots
        stored = self.bank.train(items, views=self.settings.views)
        labels = torch.tensor([item.label for item in items], device=self.device)
        sums = torch.zeros(self.num_classes, device=self.device)
        counts = torch.zeros_like(sums)
        for view in range(stored.num_views):
            for rows in torch.arange(len(items)).split(self.cfg.DATALOADER.TEST.BATCH_SIZE):
                raw = stored.rows(rows, view).to(self.device)
                probabilities = self.method.zero_shot_confidence(self.clip, raw)
                class_multipliers(probabilities, labels[rows], sums, counts)
        return sums / counts.clamp(min=1)


@TRAINER_REGISTRY.register()
class ADAPTER(CLAP):
    """The official name of CLAP, with the official code's node."""

    declares = (AdapterSettings,)
