"""CLIP-Adapter: a small residual network on the image features.

Gao, Geng, Zhang, Ma, Fang, Zhang, Li, Qiao: CLIP-Adapter: Better Vision-Language Models with
Feature Adapters, arXiv 2110.04544. Parity is tested in tests/golden/clip_adapter.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import Settings, at_least, between, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.selection import selection_rule
from trainers.common import FeatureTrainer, Method
from trainers.common.settings import precision
from trainers.common.text.encode import template_features
from trainers.common.text.templates import single_template

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CLIPAdapterSettings(Settings, section="TRAINER.CLIPADAPTER"):
    """The adapter."""

    ratio: float = setting(0.2, "share of the adapter's output in the feature", between(0, 1))
    reduction: int = setting(4, "width of the features / width of the bottleneck", at_least(1))
    search_ratio: tuple[float, ...] = setting(
        (),
        "ratios tried on the validation split after training (TEST.SELECT_ON val); (): none",
        between(0, 1),
    )
    prec: str = precision("fp32")


class ImageAdapter(Method):
    """f' = ratio * relu(W2 relu(W1 f)) + (1 - ratio) * f on un-normalised features f (B, D).

    W1 = ``down.weight`` (D / reduction, D), W2 = ``up.weight`` (D, D / reduction), no biases, are
    learned; torch's linear initialisation. The text features of one prompt per class are frozen,
    so they are encoded once. ratio is a buffer: what a search chose is part of the model.
    """

    raw_text_features: Tensor
    ratio: Tensor

    def __init__(self, raw_text_features: Tensor, settings: CLIPAdapterSettings) -> None:
        """Args: raw_text_features (C, D), before L2 normalisation.

        Raises:
            ValueError: if the reduction leaves no hidden unit.
        """
        super().__init__()
        dim, reduction = raw_text_features.shape[1], settings.reduction
        if reduction > dim:
            raise ValueError(
                f"TRAINER.CLIPADAPTER.REDUCTION is {reduction}; expected 1 to {dim}, the width of "
                "the backbone's features."
            )
        self.register_buffer("raw_text_features", raw_text_features, persistent=False)
        self.register_buffer("ratio", torch.tensor(float(settings.ratio)))
        self.down = nn.Linear(dim, dim // reduction, bias=False)
        self.up = nn.Linear(dim // reduction, dim, bias=False)

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows."""
        return F.normalize(self.raw_text_features, dim=-1)

    def image_features(self, raw_image_features: Tensor) -> Tensor:
        """(B, D) raw -> (B, D), unit rows of f'."""
        adapted = F.relu(self.up(F.relu(self.down(raw_image_features))))
        adapted = adapted.to(raw_image_features.dtype)  # float16 under autocast
        # f' = ratio relu(W2 relu(W1 f)) + (1 - ratio) f
        return F.normalize(torch.lerp(raw_image_features, adapted, self.ratio), dim=-1)

    def exported(self, clip: CLIP) -> dict[str, Tensor]:
        """The text features, W1, W2 and ratio."""
        adapter = {"down": self.down.weight, "up": self.up.weight, "ratio": self.ratio}
        return {**super().exported(clip), **adapter}


@TRAINER_REGISTRY.register()
class CLIPAdapter(FeatureTrainer):
    """Trains the adapter by cross-entropy."""

    method: ImageAdapter
    declares = (CLIPAdapterSettings,)
    model_name = "clip_adapter"

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        if CLIPAdapterSettings.of(cfg).search_ratio and selection_rule(cfg) == "last":
            raise ValueError(
                "TRAINER.CLIPADAPTER.SEARCH_RATIO compares ratios on labelled images; that needs "
                "TEST.SELECT_ON val (or test, which is marked in every table)."
            )

    @classmethod
    def templates(cls, cfg: CfgNode) -> list[str]:
        return single_template(cfg)

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        features = template_features(clip, classnames, cls.templates(cfg)).mean(dim=0)
        return ImageAdapter(features.float(), CLIPAdapterSettings.of(cfg))

    def search(self, split: str | None) -> None:
        """Try SEARCH_RATIO with the chosen weights; the first best one wins."""
        ratios = self.settings.search_ratio
        if not ratios:
            return
        accuracy = {}
        for ratio in ratios:
            self.method.ratio.fill_(ratio)
            accuracy[ratio] = self.test(split)
        best = max(ratios, key=lambda ratio: accuracy[ratio])
        self.method.ratio.fill_(best)
        logger.info("Accuracy on %s by ratio: %s; kept %s", split, accuracy, best)
        epoch = (self.selected_epoch or 0) - 1
        self.save_model(epoch, self.output_dir, model_name="model-best.pth.tar")
