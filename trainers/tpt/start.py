"""Contexts that other methods have learned, to start from: CoOp's, and CoCoOp's of an image."""

import torch
from torch import Tensor, nn

from clip.model import CLIP
from dassl.utils import load_checkpoint
from dassl.utils.checkpoint import state_of
from trainers.common.checkpoints import load_exactly
from trainers.common.text.meta_net import MetaNet


def read_context(path: str, *, is_conditional: bool = False) -> dict[str, Tensor]:
    """The learned tensors of a CoOp or CoCoOp checkpoint (ctx, meta_net.*).

    Args:
        path: the file.
        is_conditional: CoCoOp's meta-net is needed, too.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, or no context in it.
    """
    state = state_of(load_checkpoint(path))
    state = {key.removeprefix("prompt_learner."): value for key, value in state.items()}
    if "ctx" not in state:
        raise ValueError(
            f"TRAINER.TPT.CTX_FILE {path} holds no learned context (ctx), only: "
            f"{', '.join(list(state)[:5])}. Give a checkpoint of CoOp (of CoCoOp with COCOOP True)."
        )
    if state["ctx"].dim() != 2:
        raise ValueError(
            f"TRAINER.TPT.CTX_FILE {path} holds class-specific contexts; TPT tunes one that all "
            "classes share. Train CoOp with TRAINER.COOP.CSC False."
        )
    learned = {k: v.float() for k, v in state.items() if k == "ctx" or k.startswith("meta_net.")}
    if is_conditional and len(learned) == 1:
        raise ValueError(
            f"TRAINER.TPT.CTX_FILE {path} holds no meta_net: it is CoOp's. TRAINER.TPT.COCOOP True "
            "needs a checkpoint of CoCoOp; False starts from this one."
        )
    return learned


class ConditionalStart(nn.Module):
    """ctx + meta(f): CoCoOp's context for one image, the start of its adaptation.

    Args:
        clip: the backbone.
        learned: ctx (M, W) and meta_net.*, as ``read_context`` gives them.

    Raises:
        ValueError: if they do not fit the backbone.
    """

    def __init__(self, clip: CLIP, learned: dict[str, Tensor]) -> None:
        super().__init__()
        width, embed_dim = clip.transformer.width, clip.visual.output_dim
        self.ctx = nn.Parameter(torch.empty(len(learned["ctx"]), width))
        self.meta_net = MetaNet(embed_dim, width)
        load_exactly(self, learned, "TRAINER.TPT.CTX_FILE")

    @torch.no_grad()
    def start(self, raw_view: Tensor) -> Tensor:
        """(D,) raw feature of view 0 -> (M, W).

        parity: CoCoOp trains its meta-net on unit features; TPT's official code feeds raw ones.
        """
        return self.ctx + self.meta_net(raw_view[None].to(self.ctx.dtype))[0]
