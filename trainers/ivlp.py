"""IVLP and VPT: independent vision-language prompting, and visual prompts alone.

The baselines of MaPLe (Khattak et al., CVPR 2023, arXiv 2210.03117) and the architecture of
PromptSRC, whose golden cases test it. License of the official code: MIT. Language-only prompting is
IVLP with PROMPT_DEPTH_VISION 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from yacs.config import CfgNode

from clip.model import CLIP
from dassl.config import Condition, at_least, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.settings.shared_conditions import no_templates
from trainers.common import ClipTrainer, Method
from trainers.common.text.encode import zero_shot_classifier
from trainers.common.text.independent_prompts import (
    IndependentPrompts,
    IndependentSettings,
    VisionSettings,
    VisualPrompt,
)
from trainers.common.text.templates import check_templates


@dataclass(frozen=True)
class IVLPSettings(IndependentSettings, section="TRAINER.IVLP"):
    """Prompts of both towers."""


@dataclass(frozen=True)
class VPTSettings(VisionSettings, section="TRAINER.VPT"):
    """Prompts of the image tower alone."""

    n_ctx_vision: int = setting(8, "prompt tokens of the image tower", at_least(1))
    ctx_init: str = setting(
        "a photo of a", "words before the class name; DATASET.TEMPLATES replace it"
    )
    prompt_depth_vision: int = setting(
        12, "image blocks with prompts, the input counted", at_least(1)
    )


@TRAINER_REGISTRY.register()
class IVLP(ClipTrainer):
    """Trains prompts of both towers by cross-entropy."""

    declares = (IVLPSettings,)
    method_class = IndependentPrompts
    model_name = "VLPromptLearner"
    own_conditions = (no_templates(),)


@TRAINER_REGISTRY.register()
class VPT(ClipTrainer):
    """Trains prompts of the image tower by cross-entropy; the sentence of a class stays fixed."""

    declares = (VPTSettings,)
    model_name = "VLPromptLearner"
    own_conditions = (
        Condition(
            ("TRAINER.VPT.CTX_INIT",),
            lambda cfg: not cfg.DATASET.TEMPLATES,
            "the sentences are DATASET.TEMPLATES {DATASET.TEMPLATES}",
        ),
    )

    @property
    def needs_vit(self) -> bool:
        """Its prompts are in the blocks."""
        return True

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        settings = VPTSettings.of(cfg)
        sentence = f"{settings.ctx_init} {{}}.".lstrip()
        templates = check_templates([sentence], given_as="TRAINER.VPT.CTX_INIT")
        if cfg.DATASET.TEMPLATES:
            templates = check_templates(cfg.DATASET.TEMPLATES)
        return VisualPrompt(clip, zero_shot_classifier(clip, classnames, templates), settings)
