"""Learned tokens inside the towers, for MaPLe, IVLP, VPT and PromptSRC."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clip.model import BlockView, TowerHook
from dassl.config import between

FEW_TOKENS = between(1, 4)  # a prompt of so many starts at words, as in the official codes


class TextPromptHook(TowerHook):
    """Replaces the n token rows after the start markers by learned rows, before blocks 1, 2, ...

    The first prompt is part of the token embeddings. Rows depend on no class, so that any batch of
    prompts may be encoded with one hook.
    """

    def __init__(self, deep: Sequence[Tensor], start: int = 1) -> None:
        """Args: deep: prompts (n, W) for blocks 1, 2, ..., in order; start: number of markers."""
        self.deep, self.start = deep, start

    def block(self, i: int, block: BlockView, x: Tensor) -> Tensor:
        """Run block i on x (L, N, W)."""
        if 1 <= i <= len(self.deep):
            prompt = self.deep[i - 1].to(x.dtype)
            rows = prompt[:, None].expand(-1, x.shape[1], -1)
            x = torch.cat([x[: self.start], rows, x[self.start + len(prompt) :]])
        return block(x)


class ImagePromptHook(TowerHook):
    """Appends n learned tokens before ln_pre and replaces them before blocks 1, 2, ...

    No positional embedding is added to them.
    """

    def __init__(self, first: Tensor, deep: Sequence[Tensor] = ()) -> None:
        """Args: first (n, W): appended at the input; deep: prompts (n, W) for blocks 1, 2, ..."""
        self.first, self.deep = first, deep

    def embed(self, x: Tensor) -> Tensor:
        """(L, B, W) -> (L + n, B, W)."""
        return torch.cat([x, self._rows(self.first, x)])

    def block(self, i: int, block: BlockView, x: Tensor) -> Tensor:
        """Run block i on x (L + n, B, W)."""
        if 1 <= i <= len(self.deep):
            x = torch.cat([x[: -len(self.first)], self._rows(self.deep[i - 1], x)])
        return block(x)

    @staticmethod
    def _rows(prompt: Tensor, x: Tensor) -> Tensor:
        return prompt.to(x.dtype)[:, None].expand(-1, x.shape[1], -1)
