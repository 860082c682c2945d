"""IVLP and VPT: independent vision-language prompting, and visual prompts alone.

The baselines of MaPLe (Khattak et al., CVPR 2023, arXiv 2210.03117) and the architecture of
PromptSRC, whose golden cases test it. License of the official code: MIT. Language-only prompting is
IVLP with PROMPT_DEPTH_VISION 0.
"""

from collections.abc import Sequence

from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.config import Condition
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.shared_conditions import no_templates, words_are_few
from trainers.common import ClipTrainer, Method
from trainers.common.text.encode import zero_shot_classifier
from trainers.common.text.independent_prompts import IndependentPrompts, VisualPrompt
from trainers.common.text.templates import check_templates


@TRAINER_REGISTRY.register()
class IVLP(ClipTrainer):
    """Trains prompts of both towers by cross-entropy."""

    node = "IVLP"
    model_name = "VLPromptLearner"
    needs_vit = True

    @staticmethod
    def default_cfg() -> CfgNode:
        node = CN()
        node.N_CTX_VISION = 2  # prompt tokens of the image tower
        node.N_CTX_TEXT = 2  # prompt tokens of the text tower
        node.CTX_INIT = "a photo of a"  # initial words; used when N_CTX_TEXT is at most 4
        node.PREC = "amp"  # fp32 | amp | fp16
        node.PROMPT_DEPTH_VISION = 12  # image blocks with prompts, the input counted; 0: none
        node.PROMPT_DEPTH_TEXT = 12  # text blocks with prompts, the input counted
        return CN({"TRAINER": CN({"IVLP": node})})

    @classmethod
    def conditions(cls) -> list[Condition]:
        depth = "TRAINER.IVLP.PROMPT_DEPTH_VISION"
        return [
            words_are_few("IVLP", "N_CTX_TEXT"),
            Condition(
                ("TRAINER.IVLP.N_CTX_VISION",),
                lambda cfg: cfg.TRAINER.IVLP.PROMPT_DEPTH_VISION > 0,
                f"the image tower has no prompts, {depth} is 0",
            ),
            no_templates(),
            *super().conditions(),
        ]

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        node = cfg.TRAINER.IVLP
        return IndependentPrompts(
            clip,
            classnames,
            n_text=node.N_CTX_TEXT,
            n_vision=node.N_CTX_VISION,
            depth_text=node.PROMPT_DEPTH_TEXT,
            depth_vision=node.PROMPT_DEPTH_VISION,
            ctx_init=node.CTX_INIT,
            chunk=cfg.TRAIN.TEXT_CHUNK,
        )


@TRAINER_REGISTRY.register()
class VPT(ClipTrainer):
    """Trains prompts of the image tower by cross-entropy; the sentence of a class stays fixed."""

    node = "VPT"
    model_name = "VLPromptLearner"
    needs_vit = True

    @staticmethod
    def default_cfg() -> CfgNode:
        node = CN()
        node.N_CTX_VISION = 8  # prompt tokens of the image tower
        node.CTX_INIT = "a photo of a"  # words before the class name; DATASET.TEMPLATES replace it
        node.PREC = "amp"  # fp32 | amp | fp16
        node.PROMPT_DEPTH_VISION = 12  # image blocks with prompts, the input counted
        return CN({"TRAINER": CN({"VPT": node})})

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        node = cfg.TRAINER.VPT
        sentence = f"{node.CTX_INIT} {{}}.".lstrip()
        templates = check_templates([sentence], given_as="TRAINER.VPT.CTX_INIT")
        if cfg.DATASET.TEMPLATES:
            templates = check_templates(cfg.DATASET.TEMPLATES)
        return VisualPrompt(
            clip,
            zero_shot_classifier(clip, classnames, templates),
            n_vision=node.N_CTX_VISION,
            depth_vision=node.PROMPT_DEPTH_VISION,
        )
