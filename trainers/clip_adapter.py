"""CLIP-Adapter: a small residual network on the image features.

Gao, Geng, Zhang, Ma, Fang, Zhang, Li, Qiao: CLIP-Adapter: Better Vision-Language Models with
Feature Adapters, arXiv 2110.04544. Parity is tested in tests/golden/clip_adapter.
"""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.selection import selection_rule
from trainers.common import FeatureTrainer, Method
from trainers.common.text.encode import template_features
from trainers.common.text.templates import single_template

logger = logging.getLogger(__name__)


class ImageAdapter(Method):
    """f' = ratio * relu(W2 relu(W1 f)) + (1 - ratio) * f on un-normalised features f (B, D).

    W1 = ``down.weight`` (D / reduction, D), W2 = ``up.weight`` (D, D / reduction), no biases, are
    learned; torch's linear initialisation. The text features of one prompt per class are frozen,
    so they are encoded once. ratio is a buffer: what a search chose is part of the model.
    """

    def __init__(
        self, raw_text_features: Tensor, *, ratio: float = 0.2, reduction: int = 4
    ) -> None:
        """Args: raw_text_features (C, D), before L2 normalisation.

        Raises:
            ValueError: if the reduction leaves no hidden unit.
        """
        super().__init__()
        dim = raw_text_features.shape[1]
        if not 1 <= reduction <= dim:
            raise ValueError(
                f"TRAINER.CLIPADAPTER.REDUCTION is {reduction}; expected 1 to {dim}, the width of "
                "the backbone's features."
            )
        self.register_buffer("raw_text_features", raw_text_features, persistent=False)
        self.register_buffer("ratio", torch.tensor(float(ratio)))
        self.down = nn.Linear(dim, dim // reduction, bias=False)
        self.up = nn.Linear(dim // reduction, dim, bias=False)

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows."""
        return F.normalize(self.raw_text_features, dim=-1)

    def image_features(self, raw_image_features: Tensor) -> Tensor:
        """(B, D) raw -> (B, D), unit rows of f'."""
        adapted = F.relu(self.up(F.relu(self.down(raw_image_features))))
        adapted = adapted.to(raw_image_features.dtype)  # float16 under autocast
        return F.normalize(torch.lerp(raw_image_features, adapted, self.ratio), dim=-1)


@TRAINER_REGISTRY.register()
class CLIPAdapter(FeatureTrainer):
    """Trains the adapter by cross-entropy."""

    node = "CLIPADAPTER"
    model_name = "clip_adapter"

    @staticmethod
    def default_cfg() -> CfgNode:
        node = CN()
        node.RATIO = 0.2  # share of the adapter's output in the feature
        node.REDUCTION = 4  # width of the features / width of the bottleneck
        # Ratios tried on the validation split after training (TEST.SELECT_ON val); (): none.
        node.SEARCH_RATIO = ()
        node.PREC = "fp32"  # fp32 | amp | fp16
        return CN({"TRAINER": CN({"CLIPADAPTER": node})})

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        node = cfg.TRAINER.CLIPADAPTER
        for ratio in (node.RATIO, *node.SEARCH_RATIO):
            if not 0 <= ratio <= 1:
                raise ValueError(
                    f"TRAINER.CLIPADAPTER.RATIO and SEARCH_RATIO hold {ratio}; expected 0 to 1."
                )
        if node.SEARCH_RATIO and selection_rule(cfg) == "last":
            raise ValueError(
                "TRAINER.CLIPADAPTER.SEARCH_RATIO compares ratios on labelled images; that needs "
                "TEST.SELECT_ON val (or test, which is marked in every table)."
            )

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        node = cfg.TRAINER.CLIPADAPTER
        features = template_features(clip, classnames, single_template(cfg)).mean(dim=0)
        return ImageAdapter(features.float(), ratio=node.RATIO, reduction=node.REDUCTION)

    def search(self, split: str | None) -> None:
        """Try SEARCH_RATIO with the chosen weights; the first best one wins."""
        ratios = self.settings.SEARCH_RATIO
        if not ratios:
            return
        accuracy = {}
        for ratio in ratios:
            self.method.ratio.fill_(ratio)
            accuracy[ratio] = self.test(split)
        best = max(accuracy, key=accuracy.get)
        self.method.ratio.fill_(best)
        logger.info("Accuracy on %s by ratio: %s; kept %s", split, accuracy, best)
        self.save_model(self.selected_epoch - 1, self.output_dir, model_name="model-best.pth.tar")
