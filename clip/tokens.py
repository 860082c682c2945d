"""Texts as token ids: CLIP's own tokenizer, and those that other backbones bring along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from .simple_tokenizer import EOT, SOT, SimpleTokenizer

TOO_LONG = "Input {text} is too long for context length {length}"


class Tokenizer(Protocol):
    """What a backbone asks of its tokenizer.

    Attributes:
        start: number of markers before the text.
    """

    start: int

    def __call__(
        self, texts: str | Sequence[str], length: int, *, truncate: bool = False
    ) -> Tensor:
        """(N, length) token ids of texts.

        Raises:
            RuntimeError: if a text is too long and `truncate` is False.
        """

    def ends(self, tokens: Tensor) -> Tensor:
        """(N, L) token ids -> (N,) position of the token that follows the text."""


class OwnTokens:
    """CLIP's byte pairs: start, text, end, zeros. The end token has the largest id of all."""

    start = 1

    def __call__(
        self, texts: str | Sequence[str], length: int, *, truncate: bool = False
    ) -> Tensor:
        return tokenize(texts, length, truncate)

    def ends(self, tokens: Tensor) -> Tensor:
        return tokens.argmax(dim=-1)


class ForeignTokens:
    """The tokenizer of an open_clip model, called as ``tokenizer(texts, context_length=n)``.

    Its markers are read from what it makes of no text and of a word: what both begin with are
    start markers, what follows them where there is no text is the end (of T5, also the padding).
    """

    def __init__(self, tokenizer: Callable[..., Tensor]) -> None:
        self.tokenizer = tokenizer
        empty, word = tokenizer(["", "a"], context_length=8)
        self.start = int((empty == word).int().cumprod(dim=0).sum())
        self.end = int(empty[self.start])

    def __call__(
        self, texts: str | Sequence[str], length: int, *, truncate: bool = False
    ) -> Tensor:
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = self.tokenizer(texts, context_length=length + 1)  # one more shows what does not fit
        too_long = (self.ends(ids) >= length).nonzero().flatten().tolist()
        if too_long and not truncate:
            raise RuntimeError(TOO_LONG.format(text=texts[too_long[0]], length=length))
        return self.tokenizer(texts, context_length=length) if too_long else ids[:, :length]

    def ends(self, tokens: Tensor) -> Tensor:
        """Raises: ValueError for ids of another tokenizer, in which the end marker is missing."""
        found = tokens[:, self.start :] == self.end
        if not found.any(dim=1).all():
            raise ValueError(
                f"These token ids hold no end marker (id {self.end}): make them with the tokenize "
                "method of the backbone."
            )
        return self.start + found.int().argmax(dim=1)


@lru_cache(maxsize=1)
def default_tokenizer() -> SimpleTokenizer:
    """The tokenizer that `tokenize` uses, read once."""
    return SimpleTokenizer()


def tokenize(
    texts: str | Sequence[str], context_length: int = 77, truncate: bool = False
) -> Tensor:
    """Token ids of texts: start, text, end, zero padding.

    Args:
        texts: one text or several.
        context_length: positions of a row.
        truncate: cut a text that is too long, keeping the end token.

    Returns:
        (N, context_length) int32.

    Raises:
        RuntimeError: if a text is too long and `truncate` is False.
    """
    texts = [texts] if isinstance(texts, str) else texts
    tokenizer = default_tokenizer()
    sot, eot = tokenizer.encoder[SOT], tokenizer.encoder[EOT]
    rows = []
    for text in texts:
        ids = [sot, *tokenizer.encode(text), eot]
        if len(ids) > context_length:
            if not truncate:
                raise RuntimeError(TOO_LONG.format(text=text, length=context_length))
            ids = [*ids[: context_length - 1], eot]
        rows.append(ids + [0] * (context_length - len(ids)))
    return torch.tensor(rows, dtype=torch.int32).reshape(len(rows), context_length)
