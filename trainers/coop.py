"""CoOp: context optimisation.

Zhou, Yang, Loy, Liu: Learning to Prompt for Vision-Language Models, IJCV 2022, arXiv 2109.01134.
Parity is tested in tests/golden/coop. License of the official code: MIT.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip.model import CLIP
from dassl.engine import TRAINER_REGISTRY
from trainers.common import FeatureTrainer, Method
from trainers.common.prompts import LearnedPrompt, encode_prompts


class CoOpPrompt(LearnedPrompt, Method):
    """t_c = normalise(T([SOS, ctx, name_c, "."])); ctx is learned, everything else is frozen.

    ctx (M, W), or (C, M, W) with one context per class; N(0, 0.02^2) or the embeddings of words.
    """

    text_chunk = 0

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D) unit rows."""
        return F.normalize(self.raw_text_features(clip), dim=-1)

    def raw_text_features(self, clip: CLIP) -> Tensor:
        """(C, D), before L2 normalisation."""
        return encode_prompts(
            clip,
            self.tokenized_prompts,
            embeddings=self.embeddings(),
            chunk=self.text_chunk if self.training else 0,
        )

    def import_state(
        self,
        state: dict[str, Tensor],
        source_classes: Sequence[str] | None,
        classes: Sequence[str],
    ) -> dict[str, Tensor]:
        """Take ctx; prefix and suffix belong to this run's class names."""
        if "ctx" not in state:
            raise ValueError(
                f"The checkpoint holds no learned context (ctx), only: {', '.join(state)}."
            )
        ctx = state["ctx"]
        if ctx.shape != self.ctx.shape:
            raise ValueError(_mismatch(ctx, self.ctx))
        if ctx.dim() == 3 and source_classes is not None and list(source_classes) != list(classes):
            raise ValueError(
                "A class-specific context (TRAINER.COOP.CSC True) serves only the classes that it "
                "was trained on. Train with CSC False to evaluate on other classes."
            )
        return {**self.state_dict(), "ctx": ctx}


def _mismatch(given: Tensor, expected: Tensor) -> str:
    shapes = ["x".join(map(str, tensor.shape)) for tensor in (given, expected)]
    fix = f"Set TRAINER.COOP.N_CTX {given.shape[-2]}"
    if given.dim() != expected.dim():
        fix = f"Set TRAINER.COOP.CSC {given.dim() == 3}"
    return (
        f"The checkpoint was trained with {given.shape[-2]} context tokens (ctx: {shapes[0]}), this "
        f"run asks for {expected.shape[-2]} (ctx: {shapes[1]}). {fix} or point --model-dir elsewhere."
    )


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
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        node = cfg.TRAINER.COOP
        method = CoOpPrompt(
            clip,
            classnames,
            n_ctx=node.N_CTX,
            ctx_init=node.CTX_INIT,
            class_specific=node.CSC,
            position=node.CLASS_TOKEN_POSITION,
        )
        method.text_chunk = cfg.TRAIN.TEXT_CHUNK
        return method
