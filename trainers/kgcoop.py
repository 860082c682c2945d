"""KgCoOp: knowledge-guided context optimisation.

Yao, Zhang, Xu: Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, CVPR 2023.
Parity is tested in tests/golden/kgcoop. The official code states no license.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import Settings, at_least, one_of, setting
from dassl.engine import TRAINER_REGISTRY
from trainers.common import FeatureTrainer, cross_entropy_losses
from trainers.common.settings import precision
from trainers.common.text.encode import zero_shot_classifier
from trainers.common.text.learned import ContextPrompt
from trainers.common.text.templates import single_template

CONTEXT_WORDS = "a photo of a"  # spec prompt_baselines 2: for every dataset


@dataclass(frozen=True)
class KgCoOpSettings(Settings, section="TRAINER.COOP"):
    """The context and what holds it."""

    n_ctx: int = setting(4, "number of context tokens", read_if={"ctx_init": False})
    csc: bool = setting(False, "one context per class", read_if={"ctx_init": False})
    ctx_init: bool = setting(True, 'start at "a photo of a"')
    w: float = setting(1.0, "weight of the regulariser; the recipe sets 8.0", at_least(0))
    prec: str = precision("amp")
    class_token_position: str = setting("end", "where the class name stands", one_of("end"))
    alpha: float = setting(
        1.0, "in the official config", unread="the official code declares it and does not read it"
    )


class KgCoOpPrompt(ContextPrompt):
    """loss = CE(logits, y) + W * (1 - mean_c cos(t_c, r_c)).

    ctx is learned as in CoOp; r_c (C, D) are frozen unit features of the dataset's template.
    """

    reference: Tensor  # None where no losses are asked for

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        settings: KgCoOpSettings,
        *,
        reference: Tensor | None = None,
        chunk: int = 0,
    ) -> None:
        """Args: reference (C, D) unit rows, None: no losses; chunk: TRAIN.TEXT_CHUNK."""
        n_ctx, words = settings.n_ctx, CONTEXT_WORDS if settings.ctx_init else ""
        super().__init__(
            clip, classnames, n_ctx=n_ctx, ctx_init=words, class_specific=settings.csc, chunk=chunk
        )
        self.weight = settings.w
        self.register_buffer("reference", reference, persistent=False)

    def losses(self, clip: CLIP, raw_image_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy "loss_ce", distance to the reference "loss_kg" and their sum "loss"."""
        text_features = self.text_features(clip)
        image_features = self.image_features(raw_image_features)
        losses = cross_entropy_losses(self.logits(clip, image_features, text_features), labels)
        distance = 1.0 - F.cosine_similarity(text_features, self.reference, dim=-1).mean()
        total = losses["loss"] + self.weight * distance  # CE + W (1 - mean_c cos(t_c, r_c))
        return {**losses, "loss": total, "loss_ce": losses["loss"], "loss_kg": distance}


@TRAINER_REGISTRY.register()
class KgCoOp(FeatureTrainer):
    """Trains the context, held near the hand-written prompts."""

    declares = (KgCoOpSettings,)
    method_class = KgCoOpPrompt

    @classmethod
    def references(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> dict[str, Tensor]:
        templates = single_template(cfg, "kgcoop_reference")
        return {"reference": zero_shot_classifier(clip, classnames, templates)}
