"""Transformer blocks of open_clip and timm, called as our own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import QuickGELU, Transformer, pick_rows
from ..vision import HOOKABLE

SINGLE_TOKENS = f"{HOOKABLE}, and the plain and CLIPA ViTs of open_clip (docs/backbones.md)"


def own_transformer(theirs: Any, *, causal: bool) -> Transformer:
    """open_clip's Transformer as ours, on the same weights.

    Raises:
        RuntimeError: if its blocks have other parts than ours (layer scale, norms in attention).
        ValueError: for an activation that we do not have.
    """
    block = theirs.resblocks[0]
    with torch.device("meta"):
        own = Transformer(
            theirs.width,
            theirs.layers,
            block.attn.num_heads,
            causal=causal,
            activation=_activation(block.mlp.gelu),
            mlp_width=block.mlp.c_fc.out_features,
            eps=block.ln_1.eps,
        )
    own.load_state_dict(theirs.state_dict(), assign=True)
    return own


def _activation(theirs: nn.Module) -> Callable[[], nn.Module]:
    if type(theirs).__name__ == "QuickGELU":
        return QuickGELU
    if isinstance(theirs, nn.GELU):
        return partial(nn.GELU, approximate=theirs.approximate)
    raise ValueError(f"its blocks use {type(theirs).__name__}")


class TimmBlock(nn.Module):
    """A block of a timm ViT on (L, N, W) tokens; tokens appended to its own get no rotation.

    Attributes:
        ln_1, ln_2: the block's two norms, wherever it applies them.
    """

    rope: Tensor | None

    def __init__(self, block: Any, rope: Tensor | None) -> None:
        """Args: rope (P, 2 d): sine and cosine of every patch; None: no rotary positions."""
        super().__init__()
        self.ln_1, self.ln_2 = block.norm1, block.norm2
        self.inner = block
        self.register_buffer("rope", rope, persistent=False)

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        *,
        read: int | Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """(L, N, W) -> (L, N, W), or (1, N, W) with `read`.

        Raises:
            ValueError: for a mask or a shared prefix, which these blocks do not take.
        """
        if attn_mask is not None or prefix is not None:
            raise ValueError("The blocks of a timm image tower take no mask and no shared prefix.")
        options = {} if self.rope is None else {"rope": self._rope_of(len(x))}
        return pick_rows(self.inner(x.transpose(0, 1), **options).transpose(0, 1), read)

    def _rope_of(self, length: int) -> Tensor:
        """The rotations of `length` tokens but the first ones (class token, registers)."""
        assert self.rope is not None
        patches, width = self.rope.shape
        extra = length - self.inner.attn.num_prefix_tokens - patches
        sine, cosine = self.rope.new_zeros(extra, width // 2), self.rope.new_ones(extra, width // 2)
        return torch.cat([self.rope, torch.cat([sine, cosine], dim=-1)])

    def read_from(self, x: Tensor, memory: Tensor) -> Tensor:
        """Refused: timm's attention has no keys and values apart from its queries."""
        raise ValueError(
            "The blocks of a timm image tower cannot let tokens read without being read. Backbones "
            f"that work: {SINGLE_TOKENS}."
        )


def without(module: nn.Module, part: str) -> Any:
    """A copy of a module that lacks one part; all else is shared with it, not copied."""
    own = copy.copy(module)
    own._modules = {**module._modules, part: nn.Identity()}
    return own
