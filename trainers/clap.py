"""ZS-LP and CLAP: a linear probe that starts at, and is held near, the zero-shot prototypes.

Silva-Rodriguez, Hajimiri, Ben Ayed, Dolz: A Closer Look at the Few-Shot Adaptation of Large
Vision-Language Models, CVPR 2024, arXiv 2312.12730. Its formulas are tested in
tests/trainers/test_clap.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import Settings, at_least, never, one_of, setting
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.shared_conditions import STORED_VIEWS
from dassl.features.rows import FeatureView
from trainers.common import FeatureTrainer, Method, cross_entropy_losses
from trainers.common.feature_trainer import FeatureLoader
from trainers.common.settings import precision
from trainers.common.text.encode import template_features
from trainers.common.text.templates import ensemble_templates

OTHER_STARTS = {  # of the official code's trainer, which holds further methods
    "TR": "TaskRes",
    "TRenh": "TaskRes with --enhanced-base",
    "ClipA": "CLIPAdapter",
    "TipA": "TipAdapter",
    "TipA-f-": "TipAdapterF",
}


@dataclass(frozen=True)
class CLAPSettings(Settings, section="TRAINER.CLAP"):
    """The constraint, and the rows that are trained on."""

    constraint: str = setting("l2", "l2: CLAP | none: ZS-LP", one_of("none", "l2"))
    views: int = setting(20, "augmented views of each shot, encoded once", at_least(1))
    prec: str = precision("fp32")


@dataclass(frozen=True)
class AdapterSettings(CLAPSettings, section="TRAINER.ADAPTER"):
    """The same under the official name, with the official code's further keys."""

    init: str = setting("ZS", "start of the prototypes: the zero-shot classifier")
    enhanced_base: str = setting("none", "none only: the start comes from the backbone itself")

    def check(self) -> None:
        if self.init != "ZS":
            other = OTHER_STARTS.get(self.init)
            hint = f" For {self.init}, use --trainer {other}." if other else ""
            raise ValueError(f"TRAINER.ADAPTER.INIT is {self.init!r}; expected ZS.{hint}")
        if self.enhanced_base != "none":
            raise ValueError(
                f"TRAINER.ADAPTER.ENHANCED_BASE is {self.enhanced_base!r}; expected none. Enhanced "
                "bases are those of TaskRes: --trainer TaskRes --enhanced-base PATH."
            )


class Prototypes(Method):
    """logits = exp(log_logit_scale) * normalise(f) normalise(w)^T;  w (C, D) is learned.

    loss = CE + mean_c lambda_c |w_c - t_c|^2 (CLAP, constraint l2) or CE alone (ZS-LP, none).
    w starts at t (C, D), the mean un-normalised text feature of each class, which stays frozen like
    the multipliers lambda (C,).
    """

    base_text_features: Tensor
    multipliers: Tensor
    per_class = ("base_text_features", "multipliers", "prototypes")

    def __init__(self, base_text_features: Tensor, settings: CLAPSettings) -> None:
        """Start at the base classifier (C, D), not normalised."""
        super().__init__()
        self.constraint = settings.constraint
        self.register_buffer("base_text_features", base_text_features)
        self.register_buffer("multipliers", base_text_features.new_zeros(len(base_text_features)))
        self.prototypes = nn.Parameter(base_text_features.clone())

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows."""
        return F.normalize(self.prototypes, dim=-1)

    def penalty(self) -> Tensor:
        """mean_c lambda_c |w_c - t_c|^2."""
        squared = (self.prototypes - self.base_text_features).square().sum(dim=-1)
        return (self.multipliers * squared).mean()

    def losses(self, clip: CLIP, raw_image_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy "loss_ce", and for l2 the penalty "loss_l2"."""
        features = self.image_features(raw_image_features)
        losses = cross_entropy_losses(self.logits(clip, features, self.text_features(clip)), labels)
        if self.constraint == "none":
            return losses
        penalty = self.penalty()
        total = losses["loss"] + penalty
        return {"loss": total, "loss_ce": losses["loss"], "loss_l2": penalty, "acc": losses["acc"]}

    @torch.no_grad()
    def zero_shot_confidence(self, clip: CLIP, raw_image_features: Tensor) -> Tensor:
        """(B, D) -> (B, C) zero-shot probabilities."""
        text_features = F.normalize(self.base_text_features, dim=-1)
        features = self.image_features(raw_image_features)
        return self.logits(clip, features, text_features).softmax(dim=-1)


def class_multipliers(probabilities: Tensor, labels: Tensor, sums: Tensor, counts: Tensor) -> None:
    """Add a block of zero-shot probabilities (B, C) of labels (B,) to sums and counts (C,).

    lambda_c = sums / counts: the mean probability of class c over the rows of class c.
    """
    own = probabilities.gather(1, labels[:, None]).flatten()
    sums.index_add_(0, labels, own)
    counts.index_add_(0, labels, torch.ones_like(own))


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
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        features = template_features(
            clip, classnames, ensemble_templates(cfg), replace_underscores=False
        )
        return cls.prototypes(cfg, features.mean(dim=0).float())

    @classmethod
    def restore_method(
        cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str], state: dict[str, Tensor]
    ) -> Method:
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
