"""CoOp: context optimisation.

Zhou, Yang, Loy, Liu: Learning to Prompt for Vision-Language Models, IJCV 2022, arXiv 2109.01134.
Parity is tested in tests/golden/coop. License of the official code: MIT.
"""

from collections.abc import Sequence

from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.config import Condition
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.shared_conditions import no_templates, words_are_shared, words_give_length
from trainers.common import FeatureTrainer, Method
from trainers.common.text.learned import ContextPrompt
from trainers.compat import load_clip_to_cpu as load_clip_to_cpu  # other files take it from here


class CoOpPrompt(ContextPrompt):
    """t_c = normalise(T([SOS, ctx, name_c, "."])); ctx is learned, everything else is frozen.

    ctx (M, W), or (C, M, W) with one context per class; N(0, 0.02^2) or the embeddings of words.
    """


@TRAINER_REGISTRY.register()
class CoOp(FeatureTrainer):
    """Trains the context of the prompts by cross-entropy."""

    node = "COOP"

    @staticmethod
    def default_cfg() -> CfgNode:
        node = CN()
        node.N_CTX = 16  # number of context tokens; ignored when CTX_INIT is given
        node.CSC = False  # one context per class
        node.CTX_INIT = ""  # initial words, as "a photo of a"
        node.PREC = "amp"  # fp32 | fp16 | amp
        node.CLASS_TOKEN_POSITION = "end"  # end | middle | front
        return CN({"TRAINER": CN({"COOP": node})})

    @classmethod
    def conditions(cls) -> list[Condition]:
        words = words_give_length("COOP"), words_are_shared("COOP")
        return [*words, no_templates(), *super().conditions()]

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        node = cfg.TRAINER.COOP
        return CoOpPrompt(
            clip,
            classnames,
            n_ctx=node.N_CTX,
            ctx_init=node.CTX_INIT,
            class_specific=node.CSC,
            position=node.CLASS_TOKEN_POSITION,
            chunk=cfg.TRAIN.TEXT_CHUNK,
        )
