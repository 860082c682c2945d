"""ZS-LP and CLAP: a linear probe that starts at, and is held near, the zero-shot prototypes.

Silva-Rodriguez, Hajimiri, Ben Ayed, Dolz: A Closer Look at the Few-Shot Adaptation of Large
Vision-Language Models, CVPR 2024, arXiv 2312.12730. Its formulas are tested in tests/test_clap.py.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.config import Condition, at_least, never
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.shared_conditions import STORED_VIEWS
from dassl.features.rows import FeatureView
from trainers.common import FeatureTrainer, Method, cross_entropy_losses
from trainers.common.feature_trainer import FeatureLoader
from trainers.common.text.encode import template_features
from trainers.common.text.templates import ensemble_templates

CONSTRAINTS = ("none", "l2")
OTHER_STARTS = {  # of the official code's trainer, which holds further methods
    "TR": "TaskRes",
    "TRenh": "TaskRes with --enhanced-base",
    "ClipA": "CLIPAdapter",
    "TipA": "TipAdapter",
    "TipA-f-": "TipAdapterF",
}


class Prototypes(Method):
    """logits = exp(log_logit_scale) * normalise(f) normalise(w)^T;  w (C, D) is learned.

    loss = CE + mean_c lambda_c |w_c - t_c|^2 (CLAP, constraint l2) or CE alone (ZS-LP, none).
    w starts at t (C, D), the mean un-normalised text feature of each class, which stays frozen like
    the multipliers lambda (C,).
    """

    per_class = ("base_text_features", "multipliers", "prototypes")

    def __init__(self, base_text_features: Tensor, *, constraint: str = "l2") -> None:
        """Args: base_text_features (C, D), not normalised.

        Raises:
            ValueError: for an unknown constraint.
        """
        super().__init__()
        if constraint not in CONSTRAINTS:
            raise ValueError(
                f"The key CONSTRAINT is {constraint!r}; expected {' or '.join(CONSTRAINTS)}."
            )
        self.constraint = constraint
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
            (self.shuffle_seed * 1_000_003 + self.epoch) % 2**63
        )
        rows = torch.randperm(self.views * len(self.items), generator=generator)
        return rows[: len(self) * self.batch_size]

    def __iter__(self) -> Iterator[dict]:
        features = self.open_epoch(self.epoch)
        for rows in self.order().split(self.batch_size):
            images = rows % len(self.items)
            yield {
                "img": features(rows),
                "label": self.labels[images],
                "domain": self.domains[images],
                "index": images,
                "impath": [self.items[i].impath for i in images.tolist()],
            }


@TRAINER_REGISTRY.register()
class CLAP(FeatureTrainer):
    """Trains the prototypes on VIEWS stored training views of every shot."""

    node = "CLAP"
    model_name = "adapter"
    ranges = {
        "TRAINER.CLAP.VIEWS": at_least(1),
    }
    takes_shots = True

    @staticmethod
    def default_cfg() -> CfgNode:
        node = CN()
        node.CONSTRAINT = "l2"  # l2: CLAP | none: ZS-LP
        node.VIEWS = 20  # augmented views of each shot, encoded once
        node.PREC = "fp32"  # fp32 | amp | fp16
        return CN({"TRAINER": CN({"CLAP": node})})

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        views = cfg.TRAINER[self.node].VIEWS
        if views < 1:
            raise ValueError(f"TRAINER.{self.node}.VIEWS is {views}; expected >= 1.")

    @classmethod
    def view_conditions(cls) -> list[Condition]:
        stored = never(STORED_VIEWS, "it stores TRAINER.CLAP.VIEWS views of every shot")
        return [stored, *super().view_conditions()]

    @property
    def view_mode(self) -> str:
        """The method's own stored views."""
        return f"bank:{self.settings.VIEWS}"

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
        constraint = cfg.TRAINER[cls.node].CONSTRAINT
        return Prototypes(base, constraint=constraint)

    @classmethod
    def class_words(cls, cfg: CfgNode, classname: str) -> str:
        return classname  # parity: as it is, underscores included

    def make_train_loader(self, items: Sequence[Datum]) -> RowLoader:
        @cache
        def open_views() -> FeatureView:
            return self.bank.train(items, views=self.settings.VIEWS)

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
        loader.views = self.settings.VIEWS
        return loader

    def before_train(self) -> None:
        super().before_train()
        if self.start_epoch == 0:
            self.method.multipliers.copy_(self.multipliers())

    @torch.no_grad()
    def multipliers(self) -> Tensor:
        """lambda (C,) over all VIEWS * N training rows."""
        items = self.shots
        stored = self.bank.train(items, views=self.settings.VIEWS)
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

    node = "ADAPTER"
    ranges = {"TRAINER.ADAPTER.VIEWS": at_least(1)}

    @staticmethod
    def default_cfg() -> CfgNode:
        node = CLAP.default_cfg().TRAINER.CLAP
        node.INIT = "ZS"  # start of the prototypes: the zero-shot classifier
        node.ENHANCED_BASE = "none"  # none only: the start comes from the backbone itself
        return CN({"TRAINER": CN({"ADAPTER": node})})

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        node = cfg.TRAINER.ADAPTER
        if node.INIT != "ZS":
            other = OTHER_STARTS.get(node.INIT)
            hint = f" For {node.INIT}, use --trainer {other}." if other else ""
            raise ValueError(f"TRAINER.ADAPTER.INIT is {node.INIT!r}; expected ZS.{hint}")
        if node.ENHANCED_BASE != "none":
            raise ValueError(
                f"TRAINER.ADAPTER.ENHANCED_BASE is {node.ENHANCED_BASE!r}; expected none. Enhanced "
                "bases are those of TaskRes: --trainer TaskRes --enhanced-base PATH."
            )
