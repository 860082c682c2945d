"""Tip-Adapter and Tip-Adapter-F: a cache of the shots' features beside zero-shot CLIP.

Zhang, Zhang, Fang, Gao, Li, Dai, Qiao, Li: Tip-Adapter: Training-free Adaption of CLIP for Few-shot
Classification, ECCV 2022, arXiv 2207.09519. Parity is tested in tests/golden/tip_adapter.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.config import Condition, never
from dassl.data.datasets import Datum
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.selection import selection_rule, selection_split
from trainers.common import FeatureTrainer, Method
from trainers.common.cache_logits import (
    ClassSums,
    Grid,
    SearchResult,
    affinities,
    cache_keys,
    cache_scores,
    cyclic_order,
    search_features,
)
from trainers.common.constant_loader import ConstantLoader
from trainers.common.idle import STORED_VIEWS, TRAINING
from trainers.common.prompts import zero_shot_classifier
from trainers.common.templates import notebook_templates

logger = logging.getLogger(__name__)


class Cache(Method):
    """logits = scale * f W_c^T + alpha * exp(-beta (1 - f F^T)) V.

    Keys F (N, D) start as unit rows, values V (N, C) are one-hot ``key_labels``. ``is_trainable``
    (Tip-Adapter-F): F is a parameter and not normalised again; otherwise a buffer. alpha, beta are
    buffers: what the search chose is part of the model. W_c (C, D) is the frozen text classifier.
    """

    def __init__(
        self,
        clip_classifier: Tensor,
        *,
        beta: float,
        alpha: float,
        clip_scale: float = 100.0,
        is_trainable: bool = False,
    ) -> None:
        """Start without keys; see ``fill``.

        Args:
            clip_classifier: (C, D) unit rows.
            beta, alpha: sharpness and weight of the cache; TRAINER.TIPADAPTER.INIT_BETA, _ALPHA.
            clip_scale: factor of CLIP's cosines; 0: the backbone's own.
            is_trainable: learn the keys.
        """
        super().__init__()
        self.register_buffer("clip_classifier", clip_classifier, persistent=False)
        self.register_buffer("beta", torch.tensor(float(beta), dtype=torch.float64))
        self.register_buffer("alpha", torch.tensor(float(alpha), dtype=torch.float64))
        self.register_buffer("key_labels", torch.empty(0, dtype=torch.int64))
        keys = torch.empty(0, clip_classifier.shape[1])
        if is_trainable:
            self.keys = nn.Parameter(keys)
        else:
            self.register_buffer("keys", keys)
        self.clip_scale = clip_scale

    @property
    def is_trainable(self) -> bool:
        """Whether the keys are learned."""
        return isinstance(self.keys, nn.Parameter)

    @torch.no_grad()
    def fill(self, keys: Tensor, labels: Tensor) -> None:
        """Take keys (N, D) and their classes (N,); the keys are copied."""
        device = self.clip_classifier.device
        self.key_labels = labels.to(device).clone()
        keys = keys.detach().to(device).clone()
        self.keys = nn.Parameter(keys) if self.is_trainable else keys

    def set_weights(self, beta: float, alpha: float) -> None:
        """Take a pair that a search chose."""
        self.beta.fill_(beta)
        self.alpha.fill_(alpha)

    def sums(self) -> ClassSums:
        """Sums over the keys of each class."""
        return ClassSums(self.key_labels, len(self.clip_classifier))

    def text_features(self, clip: CLIP | None) -> Tensor:
        """(C, D) unit rows."""
        return self.clip_classifier

    def clip_logits(self, clip: CLIP | None, features: Tensor, classifier: Tensor) -> Tensor:
        """(B, D), (C, D), unit rows -> (B, C), float32."""
        scale = self.clip_scale or clip.logit_scale.detach().exp()
        return (scale * features @ classifier.t()).float()

    def affinities(self, image_features: Tensor) -> Tensor:
        """(B, D) unit rows -> (B, N)."""
        return affinities(image_features, self.keys)

    def logits(self, clip: CLIP | None, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, D), (C, D), unit rows -> (B, C)."""
        clip_logits = self.clip_logits(clip, image_features, text_features)
        return self.add_cache(clip_logits, image_features)

    def add_cache(self, clip_logits: Tensor, image_features: Tensor) -> Tensor:
        """(B, C) + alpha * cache scores of (B, D) unit rows."""
        scores = cache_scores(self.affinities(image_features), self.beta, self.sums())
        return clip_logits + self.alpha * scores

    def import_state(
        self,
        state: dict[str, Tensor],
        source_classes: Sequence[str] | None,
        classes: Sequence[str],
    ) -> dict[str, Tensor]:
        """Make room for the file's keys; of other classes only those of this run are kept.

        Raises:
            ValueError: if no key belongs to a class of this run.
        """
        state = dict(state)
        if source_classes is not None and list(source_classes) != list(classes):
            place = {name: label for label, name in enumerate(classes)}
            target = torch.tensor([place.get(name, -1) for name in source_classes])
            labels = target[state["key_labels"].cpu()]
            if not (labels >= 0).any():
                raise ValueError(
                    "The cache in the checkpoint holds none of the classes of this run, only "
                    f"{', '.join(list(source_classes)[:5])}. A cache does not transfer to new "
                    "classes."
                )
            state["keys"] = state["keys"][(labels >= 0).to(state["keys"].device)]
            state["key_labels"] = labels[labels >= 0]
        self.fill(state["keys"], state["key_labels"])
        return state


@TRAINER_REGISTRY.register()
class TipAdapter(FeatureTrainer):
    """Builds the cache; nothing is trained. A search on labelled images may choose beta, alpha."""

    node = "TIPADAPTER"
    model_name = "tip_adapter"
    fits_without_optimiser = True
    drop_last = False
    is_finetuned = False

    @staticmethod
    def default_cfg() -> CfgNode:
        node = CN()
        node.INIT_BETA = 1.0  # sharpness of the cache
        node.INIT_ALPHA = 1.17  # weight of the cache
        node.SEARCH_SCALE = (7.0, 3.0)  # upper ends (beta, alpha) of the search, excluded
        node.SEARCH_STEP = (200, 20)  # values (beta, alpha) that the search tries
        node.AUGMENT_EPOCH = 10  # augmented views of each shot behind its key
        node.CLIP_SCALE = 100.0  # factor of CLIP's cosines; 0: the backbone's own logit scale
        return CN({"TRAINER": CN({"TIPADAPTER": node})})

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        node = cfg.TRAINER.TIPADAPTER
        for key in ("SEARCH_SCALE", "SEARCH_STEP"):
            if len(node[key]) != 2 or min(node[key]) <= 0:
                raise ValueError(
                    f"TRAINER.TIPADAPTER.{key} is {tuple(node[key])}; expected two positive "
                    "numbers, for beta and alpha."
                )
        if node.AUGMENT_EPOCH < 1:
            raise ValueError(
                f"TRAINER.TIPADAPTER.AUGMENT_EPOCH is {node.AUGMENT_EPOCH}; expected >= 1."
            )

    @classmethod
    def conditions(cls) -> list[Condition]:
        node = "TRAINER.TIPADAPTER"
        grid, start = ("SEARCH_SCALE", "SEARCH_STEP"), ("INIT_BETA", "INIT_ALPHA")
        own = [
            Condition(
                (f"{node}.AUGMENT_EPOCH",),
                lambda cfg: not cfg.MODEL.INIT_WEIGHTS,
                "the keys are those of MODEL.INIT_WEIGHTS",
            ),
            Condition(
                tuple(f"{node}.{key}" for key in grid),
                lambda cfg: selection_rule(cfg) != "last",
                "nothing may be searched, TEST.SELECT_ON is {TEST.SELECT_ON}",
            ),
        ]
        if not cls.is_finetuned:
            own += [
                Condition(
                    tuple(f"{node}.{key}" for key in start),
                    lambda cfg: selection_rule(cfg) == "last",
                    "the search on labels (TEST.SELECT_ON {TEST.SELECT_ON}) chooses it",
                ),
                never((*TRAINING, *STORED_VIEWS), "the cache is built, nothing is trained"),
            ]
        return [*own, *super().conditions()]

    @property
    def view_mode(self) -> str:
        """The stored views behind the keys; fine-tuning reads those that TRAIN.VIEWS says."""
        return super().view_mode if self.is_finetuned else f"bank:{self.settings.AUGMENT_EPOCH}"

    # ----------------------------------------------------------------- set-up
    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        node = cfg.TRAINER.TIPADAPTER
        return Cache(
            zero_shot_classifier(clip, classnames, notebook_templates(cfg)).float(),
            beta=node.INIT_BETA,
            alpha=node.INIT_ALPHA,
            clip_scale=node.CLIP_SCALE,
            is_trainable=cls.is_finetuned,
        )

    def prepare_method(self) -> None:
        """Room for one key per shot, ordered for quick sums; ``before_train`` fills it."""
        labels = torch.tensor([item.label for item in self.train_loader_x.items])
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
        items = self.train_loader_x.items
        raw = self.bank.train(items, views=self.settings.AUGMENT_EPOCH).mean()
        return cache_keys(raw[None])[self.key_order]

    def _test_loader(self, items: Sequence[Datum]) -> ConstantLoader:
        items = self.bank.readable(items)

        def constants(raw: Tensor) -> list[Tensor]:
            features = self.method.image_features(raw)
            classifier = self.method.clip_classifier
            return [features, self.method.clip_logits(self.clip, features, classifier)]

        return ConstantLoader(
            items,
            lambda: self.bank.test(items).rows,
            constants,
            batch_size=self.cfg.DATALOADER.TEST.BATCH_SIZE,
            device=self.device,
        )

    # ----------------------------------------------------------------- evaluation
    def model_inference(self, images: list[Tensor]) -> Tensor:
        """[unit rows (B, D), CLIP logits (B, C)] -> (B, C) logits."""
        features, clip_logits = images
        return self.method.add_cache(clip_logits, features)

    @torch.no_grad()
    def search_on(self, split: str) -> SearchResult:
        """Accuracy of every pair of the grid on a split."""
        node = self.settings
        loader = self.val_loader if split == "val" else self.test_loader
        features, clip_logits = loader.kept()
        return search_features(
            clip_logits,
            features,
            self.method.keys,
            self.method.key_labels,
            loader.labels,
            Grid(tuple(node.SEARCH_SCALE), tuple(node.SEARCH_STEP)),
        )

    def _deploy(self) -> None:
        """Search beta and alpha where the selection rule allows it; keep the result on disk."""
        super()._deploy()
        split = selection_split(self.selection)
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
class TipAdapterF(TipAdapter):
    """Tip-Adapter-F: the keys are fine-tuned with the initial beta and alpha.

    ``last``: last epoch, initial pair. ``val``: last epoch, pair searched on the validation split.
    ``test``: everything as published: best test epoch, then a search on the validation split
    (ImageNet: on the test images), and the better of the two test accuracies.
    """

    is_finetuned = True
    default_cfg = staticmethod(TipAdapter.default_cfg)

    @classmethod
    def conditions(cls) -> list[Condition]:
        staged = never("OPTIM.STAGED_LR", "the keys are all that learns")
        return [staged, *super().conditions()]

    def param_groups(self) -> list[dict]:
        """The keys, updated in one pass over them instead of one per operation of AdamW."""
        return [{"params": [self.method.keys], "fused": True}]

    def after_epoch(self) -> None:
        """Choose an epoch under the rule ``test`` only: ``val`` takes the last one."""
        rule, self.selection = self.selection, "test" if self.selection == "test" else "last"
        try:
            super().after_epoch()
        finally:
            self.selection = rule

    def _deploy(self) -> None:
        if self.selection == "test":
            FeatureTrainer._deploy(self)
            self._search_as_published()
        else:
            super()._deploy()

    def _search_as_published(self) -> None:
        """Search with the best epoch's keys; keep the pair that is better on the test images."""
        node = self.settings
        on_test = self.cfg.DATASET.NAME == "ImageNet" or self.val_loader is None
        found = self.search_on("test" if on_test else "val")
        accuracy = {}
        for pair in ((node.INIT_BETA, node.INIT_ALPHA), (found.beta, found.alpha)):
            self.method.set_weights(*pair)
            accuracy[pair] = self.test("test")
        best = max(accuracy, key=accuracy.get)
        self.method.set_weights(*best)
        logger.info("Test accuracy by (beta, alpha): %s; kept %s", accuracy, best)
        self.save_deployed()

    def save_deployed(self) -> None:
        """Write the chosen keys with the chosen pair under the epoch that they are of."""
        name = "model-best.pth.tar" if self.selection == "test" else ""
        self.save_model(self.selected_epoch - 1, self.output_dir, model_name=name)
