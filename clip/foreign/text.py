"""The text tower of an open_clip model, taken over part by part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..two_towers import TwoTowers
from .blocks import own_transformer

POOLS = ("argmax", "eos", "last", "first")


class TextReadout:
    """Where the feature of a text is read, and what its tokens see.

    open_clip's rules: "argmax" the largest id (CLIP's end), "eos" the first `eos_id`, "last" and
    "first" position, or a class token that follows the text (CoCa) and sees no padding.
    """

    def __init__(self, text: Any) -> None:
        self.pool = getattr(text, "pool_type", None) or text.text_pool_type
        self.eos_id: Any = getattr(text, "eos_id", getattr(text, "text_eos_id", None))
        self.has_class = getattr(text, "cls_emb", None) is not None
        self.is_causal = text.attn_mask is not None and not self.has_class
        self.pad_id = getattr(text, "pad_id", 0)
        # CoCa's published weights were trained with the padding mask shifted by one token
        self.is_shifted = self.has_class and not getattr(text, "correct_cls_mask", False)
        if not self.has_class and self.pool not in POOLS:
            raise ValueError(f'its text tower pools by "{self.pool}"')
        if self.has_class and text.attn_mask is None or getattr(text, "use_pad_mask", False):
            raise ValueError("its text tower masks padding without a causal mask")

    def positions(self, tokens: Tensor, ends: Tensor) -> Tensor:
        """(N, L) token ids and (N,) end positions -> (N,) position that is read."""
        if self.has_class:
            return torch.full_like(ends, tokens.shape[1])
        if self.pool == "argmax":
            return tokens.argmax(dim=-1)
        if self.pool == "eos":
            return (tokens == self.eos_id).int().argmax(dim=-1)
        return torch.full_like(ends, 0 if self.pool == "first" else tokens.shape[1] - 1)

    def mask(self, tokens: Tensor) -> Tensor | None:
        """(N, L) token ids -> (N, L + 1, L + 1), True = may attend, with a class token."""
        if not self.has_class:
            return None
        valid = tokens != self.pad_id
        own = valid.new_ones(len(tokens), 1)
        keys = torch.cat([own, valid] if self.is_shifted else [valid, own], dim=1)
        size = keys.shape[1]
        return valid.new_ones(size, size).tril() & keys[:, None]


def take_text_tower(model: TwoTowers, inner: Any) -> TextReadout:
    """Give `model` the parts of a text tower of open_clip; the weights are shared.

    Raises:
        ValueError, RuntimeError, AttributeError: if it is not one that can be taken over.
    """
    text = getattr(inner, "text", inner)  # open_clip.CLIP has its parts itself
    readout = TextReadout(text)
    model.transformer = own_transformer(text.transformer, causal=readout.is_causal)
    model.token_embedding = text.token_embedding
    model.positional_embedding = text.positional_embedding
    model.ln_final = text.ln_final
    if readout.has_class:
        model.text_class = text.cls_emb
    _take_projection(model, text.text_projection)
    model.is_causal = readout.is_causal
    model.context_length = text.context_length
    return readout


def _take_projection(model: TwoTowers, projection: nn.Linear | Tensor | None) -> None:
    if projection is None:
        model.text_projection = nn.Parameter(torch.eye(model.transformer.width))
    elif isinstance(projection, nn.Linear):
        model.text_projection = nn.Parameter(projection.weight.t())
        model.text_projection_bias = projection.bias
    else:
        model.text_projection = projection
