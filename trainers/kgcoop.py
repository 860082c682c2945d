"""KgCoOp: knowledge-guided context optimisation.

Yao, Zhang, Xu: Visual-Language Prompt Tuning with Knowledge-guided Context Optimization, CVPR 2023.
Parity is tested in tests/golden/kgcoop. The official code states no license.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.config import Condition, at_least, never
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.shared_conditions import words_are_shared, words_give_length
from trainers.common import FeatureTrainer, Method, cross_entropy_losses
from trainers.common.text.encode import zero_shot_classifier
from trainers.common.text.learned import ContextPrompt
from trainers.common.text.templates import check_templates, dataset_template

CONTEXT_WORDS = "a photo of a"  # spec prompt_baselines 2: for every dataset


class KgCoOpPrompt(ContextPrompt):
    """loss = CE(logits, y) + W * (1 - mean_c cos(t_c, r_c)).

    ctx is learned as in CoOp; r_c (C, D) are frozen unit features of the dataset's template.
    """

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        *,
        reference: Tensor,
        weight: float,
        n_ctx: int,
        ctx_init: str = "",
        class_specific: bool = False,
        chunk: int = 0,
    ) -> None:
        """Args: reference (C, D) unit rows; weight: W of the regulariser."""
        super().__init__(
            clip,
            classnames,
            n_ctx=n_ctx,
            ctx_init=ctx_init,
            class_specific=class_specific,
            chunk=chunk,
        )
        self.weight = weight
        self.register_buffer("reference", reference, persistent=False)

    def losses(self, clip: CLIP, raw_image_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy "loss_ce", distance to the reference "loss_kg" and their sum "loss"."""
        text_features = self.text_features(clip)
        image_features = self.image_features(raw_image_features)
        losses = cross_entropy_losses(self.logits(clip, image_features, text_features), labels)
        distance = 1.0 - F.cosine_similarity(text_features, self.reference, dim=-1).mean()
        total = losses["loss"] + self.weight * distance
        return {**losses, "loss": total, "loss_ce": losses["loss"], "loss_kg": distance}


@TRAINER_REGISTRY.register()
class KgCoOp(FeatureTrainer):
    """Trains the context, held near the hand-written prompts."""

    node = "COOP"
    ranges = {
        "TRAINER.COOP.W": at_least(0),
    }

    @staticmethod
    def default_cfg() -> CfgNode:
        node = CN()
        node.N_CTX = 4  # context tokens; ignored when CTX_INIT is True
        node.CSC = False  # one context per class
        node.CTX_INIT = True  # start at "a photo of a"
        node.W = 1.0  # weight of the regulariser; the recipe sets 8.0
        node.PREC = "amp"  # fp32 | fp16 | amp
        node.CLASS_TOKEN_POSITION = "end"  # end only
        node.ALPHA = 1.0  # in the official node, without effect
        return CN({"TRAINER": CN({"COOP": node})})

    @classmethod
    def conditions(cls) -> list[Condition]:
        return [
            words_give_length("COOP", off="False"),
            words_are_shared("COOP", off="False"),
            never("TRAINER.COOP.ALPHA", "the official code declares it and does not read it"),
            *super().conditions(),
        ]

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        if cfg.TRAINER.COOP.CLASS_TOKEN_POSITION != "end":
            raise ValueError("KgCoOp supports TRAINER.COOP.CLASS_TOKEN_POSITION end only.")

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        node = cfg.TRAINER.COOP
        templates = [dataset_template(cfg.DATASET.NAME, "kgcoop_reference")]
        if cfg.DATASET.TEMPLATES:
            templates = check_templates(cfg.DATASET.TEMPLATES)
        return KgCoOpPrompt(
            clip,
            classnames,
            reference=zero_shot_classifier(clip, classnames, templates),
            weight=node.W,
            n_ctx=node.N_CTX,
            ctx_init=CONTEXT_WORDS if node.CTX_INIT else "",
            class_specific=node.CSC,
            chunk=cfg.TRAIN.TEXT_CHUNK,
        )
