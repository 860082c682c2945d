"""The trainers of Tip-Adapter and Tip-Adapter-F."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import Condition, never
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import STORED_VIEWS, TRAINING, not_searched, searched
from dassl.features.precomputed import ConstantLoader
from trainers.common import FeatureTrainer, Method
from trainers.common.text.encode import zero_shot_classifier
from trainers.common.text.templates import notebook_templates

from .method import Cache
from .scores import (
    Grid,
    SearchResult,
    cache_keys,
    cyclic_order,
    search_features,
)
from .settings import TipAdapterSettings

logger = logging.getLogger(__name__)


class CacheTrainer(FeatureTrainer):
    """Builds the cache of the shots; a search on labelled images may choose beta and alpha."""

    method: Cache
    declares = (TipAdapterSettings,)
    gpu_precision = "fp16"  # of the backbone, as in the official code
    runs_alone = "its search scores all images at once, which takes seconds"
    model_name = "tip_adapter"
    takes_shots = True
    drop_last = False
    own_conditions: Sequence[Condition] = (
        searched("TRAINER.TIPADAPTER.SEARCH_SCALE", "TRAINER.TIPADAPTER.SEARCH_STEP"),
    )

    # ----------------------------------------------------------------- set-up
    @classmethod
    def templates(cls, cfg: CfgNode) -> list[str]:
        return notebook_templates(cfg)

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        classifier = zero_shot_classifier(clip, classnames, cls.templates(cfg)).float()
        return cls.cache_of(classifier, TipAdapterSettings.of(cfg))

    @staticmethod
    def cache_of(classifier: Tensor, settings: TipAdapterSettings) -> Cache:
        """An empty cache beside the text classifier (C, D), unit rows."""
        return Cache(classifier, settings)

    def prepare_method(self) -> None:
        """Room for one key per shot, ordered for quick sums; ``before_train`` fills it."""
        labels = torch.tensor([item.label for item in self.shots])
        self.key_order = cyclic_order(labels)
        empty = torch.zeros(len(labels), self.method.clip_classifier.shape[1])
        self.method.fill(empty, labels[self.key_order])

    def before_train(self) -> None:
        super().before_train()
        if self.start_epoch == 0 and not self.cfg.MODEL.INIT_WEIGHTS:
            with torch.no_grad():
                self.method.keys.copy_(self.shot_keys())

    def shot_keys(self) -> Tensor:
        """(N, D): keys from AUGMENT_EPOCH stored training views of the shots."""
        raw = self.bank.train(self.shots, views=self.settings.augment_epoch).mean()
        return cache_keys(raw[None])[self.key_order]

    def make_test_loader(self, items: Sequence[Datum]) -> ConstantLoader:
        def constants(raw: Tensor) -> list[Tensor]:
            features = self.method.image_features(raw)
            classifier = self.method.clip_classifier
            return [features, self.method.clip_logits(self.clip, features, classifier)]

        return self.constant_loader(items, constants)

    # ----------------------------------------------------------------- evaluation
    def model_inference(self, images: list[Tensor], text_features: Tensor | None = None) -> Tensor:
        """[unit rows (B, D), CLIP logits (B, C)] -> (B, C) logits."""
        features, clip_logits = images
        return self.method.add_cache(clip_logits, features)

    @torch.no_grad()
    def search_on(self, split: str) -> SearchResult:
        """Accuracy of every pair of the grid on a split."""
        settings = self.settings
        loader = self.val_loader if split == "val" else self.test_loader
        features, clip_logits = loader.kept()
        return search_features(
            clip_logits,
            features,
            self.method.keys,
            self.method.key_labels,
            loader.labels,
            Grid(tuple(settings.search_scale), tuple(settings.search_step)),
        )

    def search(self, split: str | None) -> None:
        """Search beta and alpha where the selection rule allows it; keep the result on disk."""
        if split is not None:
            found = self.search_on(split)
            best = found.accuracy.max().item()
            self.method.set_weights(found.beta, found.alpha)
            logger.info(
                "Search on %s: beta %.4g, alpha %.4g, accuracy %.2f%% (%d pairs)",
                split,
                found.beta,
                found.alpha,
                best,
                found.accuracy.numel(),
            )
        self.save_deployed()

    def save_deployed(self) -> None:
        """Write the cache with the chosen pair as the checkpoint of epoch 0."""
        self.save_model(-1, self.output_dir)


@TRAINER_REGISTRY.register()
class TipAdapter(CacheTrainer):
    """Nothing is trained."""

    own_conditions = (
        not_searched("TRAINER.TIPADAPTER.INIT_BETA", "TRAINER.TIPADAPTER.INIT_ALPHA"),
        never((*TRAINING, *STORED_VIEWS), "the cache is built, nothing is trained"),
    )

    @property
    def learns(self) -> bool:
        """The cache is built of the shots."""
        return True

    @property
    def view_mode(self) -> str:
        """The stored views behind the keys."""
        return f"bank:{self.settings.augment_epoch}"


@TRAINER_REGISTRY.register()
class TipAdapterF(CacheTrainer):
    """Tip-Adapter-F: the keys are fine-tuned with the initial beta and alpha.

    ``last``: last epoch, initial pair. ``val``: last epoch, pair searched on the validation split.
    ``test``: everything as published: best test epoch, then a search on the validation split
    (ImageNet: on the test images), and the better of the two test accuracies.
    """

    own_conditions = (never("OPTIM.STAGED_LR", "the keys are all that learns"),)

    @staticmethod
    def cache_of(classifier: Tensor, settings: TipAdapterSettings) -> Cache:
        return Cache(classifier, settings, is_trainable=True)

    def param_groups(self) -> list[dict]:
        """The keys, updated in one pass over them instead of one per operation of AdamW."""
        return [{"params": [self.method.keys], "fused": True}]

    @property
    def epoch_split(self) -> str | None:
        """Labels choose an epoch under the rule ``test`` only: ``val`` takes the last one."""
        return "test" if self.selection == "test" else None

    def search(self, split: str | None) -> None:
        """As published under the rule ``test``."""
        if split == "test":
            self._search_as_published()
        else:
            super().search(split)

    def _search_as_published(self) -> None:
        """Search with the best epoch's keys; keep the pair that is better on the test images."""
        settings = self.settings
        on_test = self.cfg.DATASET.NAME == "ImageNet" or self.val_loader is None
        found = self.search_on("test" if on_test else "val")
        accuracy = {}
        for pair in ((settings.init_beta, settings.init_alpha), (found.beta, found.alpha)):
            self.method.set_weights(*pair)
            accuracy[pair] = self.test("test")
        best = max(accuracy, key=lambda pair: accuracy[pair])
        self.method.set_weights(*best)
        logger.info("Test accuracy by (beta, alpha): %s; kept %s", accuracy, best)
        self.save_deployed()

    def save_deployed(self) -> None:
        """Write the chosen keys with the chosen pair under the epoch that they are of."""
        name = "model-best.pth.tar" if self.selection == "test" else ""
        self.save_model((self.selected_epoch or 0) - 1, self.output_dir, model_name=name)
