"""What every backbone offers: two encoders with hooks and hidden states, and its own tokenizer.

`CLIP` (clip/model.py) and `OpenCLIP` (clip/foreign/model.py) differ in their towers and in where
a text's feature is read; methods use the members of this class and know neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import TowerHook, Transformer, pick_rows
from .tokens import OwnTokens, Tokenizer

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


class TwoTowers(nn.Module):
    """logits = exp(logit_scale) * norm(image features) @ norm(text features).T (+ logit_bias)

    Attributes:
        backbone_name: what `load_backbone` was asked for.
        image_mean, image_std: statistics that pixels are normalised with.
        image_interpolation: "bicubic" or "bilinear".
        image_resize: "shortest" (side, then centre crop) or "squash".
        visual: the image tower; `visual.transformer` exists where it consists of blocks.
        transformer, token_embedding, positional_embedding, ln_final: the text tower.
        text_projection: (W, D); text_projection_bias: (D,) or None.
        text_class: (W,) embedding of a token that follows every text (CoCa), or None.
        context_length: positions of a text.
        tokenizer: see clip/tokens.py.
        is_causal: a text token sees only those before it, so that what follows the token that is
            read can be cut off, and equal beginnings be computed once.
        logit_scale: in log form; logit_bias: added to every logit (SigLIP), or None.
    """

    visual: Any
    transformer: Transformer
    token_embedding: nn.Embedding
    positional_embedding: Tensor
    ln_final: nn.Module
    text_projection: Tensor
    logit_scale: nn.Parameter
    is_causal = True

    def __init__(self, context_length: int) -> None:
        super().__init__()
        self.backbone_name = ""
        self.image_mean, self.image_std = IMAGE_MEAN, IMAGE_STD
        self.image_interpolation, self.image_resize = "bicubic", "shortest"
        self.context_length = context_length
        self.tokenizer: Tokenizer = OwnTokens()
        self.text_projection_bias: Tensor | None = None
        self.text_class: Tensor | None = None
        self.logit_bias: Tensor | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations."""
        raise TypeError(f"{type(self).__name__} does not override dtype.")

    @property
    def activation(self) -> str:
        """The activation of the MLPs: "quick_gelu" (OpenAI's) or "gelu"."""
        names = {type(module).__name__ for module in self.modules()}
        return "quick_gelu" if "QuickGELU" in names else "gelu"

    # ----------------------------------------------------------------- texts as tokens
    def tokenize(self, texts: str | Sequence[str], *, truncate: bool = False) -> Tensor:
        """(N, context_length) token ids of texts, on the model's device.

        Raises:
            RuntimeError: if a text is too long and `truncate` is False.
        """
        tokens = self.tokenizer(texts, self.context_length, truncate=truncate)
        return tokens.to(self.logit_scale.device)

    @property
    def text_start(self) -> int:
        """Number of markers before a text's own tokens."""
        return self.tokenizer.start

    def end_positions(self, tokens: Tensor) -> Tensor:
        """(N, L) token ids -> (N,) position of the token that follows the text."""
        return self.tokenizer.ends(tokens)

    def read_positions(self, tokens: Tensor) -> Tensor:
        """(N, L) token ids -> (N,) position whose output is the feature of the text."""
        return self.end_positions(tokens)

    def prompt_lengths(self, tokens: Tensor) -> Tensor:
        """(N, L) token ids -> (N,) how many leading tokens the feature of each text depends on."""
        if self.is_causal:
            return self.read_positions(tokens) + 1
        return tokens.new_full((len(tokens),), tokens.shape[1])

    def text_mask(self, tokens: Tensor) -> Tensor | None:
        """(N, L) token ids -> mask of the blocks in place of their own (CoCa), or None."""
        return None

    # ----------------------------------------------------------------- encoders
    def encode_image(
        self,
        images: Tensor | None,
        *,
        hook: TowerHook | None = None,
        start: int = 0,
        stop: int | None = None,
        states: Tensor | None = None,
        pool: bool = True,
    ) -> Tensor:
        """Encode images to raw (not normalised) features.

        Args:
            images: (N, 3, H, H), normalised; None if `states` is given.
            hook: what a method adds to the tower (vision transformers only).
            start: block that `states` enter, from 0.
            stop: return the hidden states that would enter this block; None = run the tower.
            states: (L, N, W) hidden states before block `start`; nothing before it is run.
            pool: False returns all tokens after the last block, (L, N, W); see `project_image`.

        Returns:
            (N, D), or (L, N, W) hidden states with `pool=False` or `stop`.

        Raises:
            ValueError: for a ResNet tower with anything but `images`; wrong image size.
        """
        _check_states(images, start, states, "images")
        images = None if images is None else images.to(self.dtype)
        states = None if states is None else states.to(self.dtype)
        return self.visual(images, hook=hook, start=start, stop=stop, states=states, pool=pool)

    def encode_text(
        self,
        tokens: Tensor,
        *,
        embeddings: Tensor | None = None,
        hook: TowerHook | None = None,
        start: int = 0,
        stop: int | None = None,
        states: Tensor | None = None,
        pool: bool = True,
        shared: int = 0,
        read: Tensor | None = None,
    ) -> Tensor:
        """Encode prompts to raw (not normalised) features.

        Everything is cut to the largest of `prompt_lengths`: in a causal tower nothing after the
        token that is read can matter.

        Args:
            tokens: (N, context) token ids; the feature is read at `read_positions`.
            embeddings: (N, L, W) in place of the token embeddings, positions not yet added.
            hook: what a method adds to the tower.
            start: block that `states` enter, from 0.
            stop: return the hidden states that would enter this block; None = run the tower.
            states: (L, N, W) hidden states before block `start`; nothing before it is run.
            pool: False returns all tokens after the last block, (L, N, W); see `project_text`.
            shared: number of leading tokens that are the same in all N prompts; they are computed
                once (see Transformer.forward for what this asks of a hook).
            read: (N,) `read_positions`, where the caller knows them and has cut the tokens to what
                the longest prompt needs, and checked that they share `shared`: nothing is read
                back from the device.

        Returns:
            (N, D), or (L, N, W) hidden states with `pool=False` or `stop`, L = last EOT + 1 (in a
            causal tower).

        Raises:
            ValueError: if the tokens do not fit the tower or the embeddings, or are not shared.
        """
        _check_states(tokens, start, states, "tokens")
        is_known, length = read is not None, tokens.shape[1]
        if read is None:
            read = self.read_positions(tokens)
            length = int(self.prompt_lengths(tokens).max())
        x = self._embed_text(tokens, embeddings, states, length)
        if shared and not is_known:
            self._check_shared(tokens, read, embeddings is None and states is None, shared)
        if states is None and hook is not None:
            x = hook.embed(x)
        is_pooled = pool and stop is None
        picked = read if is_pooled and not (hook is not None and hook.all_rows) else None
        x = self.transformer(
            x,
            hook=hook,
            start=start,
            stop=stop,
            read=picked,
            shared=shared,
            mask=self.text_mask(tokens),
        )
        if not is_pooled:
            return x
        # no block was run, or all rows were asked for: pick the row here
        is_read = picked is not None and start < self.transformer.layers
        return self.project_text((x if is_read else pick_rows(x, read))[0])

    def _embed_text(
        self, tokens: Tensor, embeddings: Tensor | None, states: Tensor | None, length: int
    ) -> Tensor:
        """The (L, N, W) tokens that enter the tower, cut to `length`."""
        extra = 0 if self.text_class is None else 1
        if states is not None:
            _check_length(states.shape[0], length + extra, "states")
            return states[: length + extra].to(self.dtype)
        if embeddings is None:
            self._check_context(tokens)
            embeddings = self.token_embedding(tokens[:, :length])
        _check_length(embeddings.shape[1], length, "embeddings")
        x = embeddings[:, :length].to(self.dtype)
        if self.text_class is not None:
            x = torch.cat([x, self.text_class.to(x.dtype).expand(len(x), 1, -1)], dim=1)
        positions = self.positional_embedding[: length + extra].to(self.dtype)
        return (x + positions).permute(1, 0, 2)  # (L, N, W)

    def _check_context(self, tokens: Tensor) -> None:
        given, own = tokens.shape[-1], self.context_length
        if given > own or (given < own and not self.is_causal):
            raise ValueError(
                f"tokens have {given} positions, the text tower of this backbone has {own}: use "
                "its own method, tokenize(texts)."
            )

    def _check_shared(self, tokens: Tensor, read: Tensor, compare: bool, shared: int) -> None:
        if not self.is_causal:
            raise ValueError(
                f"shared={shared} tokens, but every token of this text tower sees those after it: "
                "equal beginnings are not equal inside. Leave shared out."
            )
        if shared > int(read.min()):
            raise ValueError(
                f"shared={shared} tokens, but an EOT is at position {int(read.min())}: the token "
                "that is read must come after the shared ones."
            )
        if compare and not (tokens[:, :shared] == tokens[:1, :shared]).all():
            raise ValueError(
                f"shared={shared}, but the first {shared} tokens of the prompts differ."
            )

    def project_image(self, rows: Tensor) -> Tensor:
        """(..., W) image tokens after the last block -> (..., D) raw features."""
        return self.visual.project(rows)

    def project_text(self, rows: Tensor) -> Tensor:
        """(..., W) text tokens after the last block -> (..., D) raw features."""
        features = self.ln_final(rows).to(self.dtype) @ self.text_projection
        if self.text_projection_bias is None:
            return features
        return features + self.text_projection_bias

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, H), (M, context) -> scaled logits (N, M) and their transpose (M, N)."""
        image_features = _unit(self.encode_image(images))
        text_features = _unit(self.encode_text(tokens))
        logits = self.logit_scale.exp() * image_features @ text_features.t()
        return logits, logits.t()


def _unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=-1, keepdim=True)


def _check_states(data: Tensor | None, start: int, states: Tensor | None, name: str) -> None:
    if data is None and (states is None or name == "tokens"):
        raise ValueError(f"Nothing to encode: {name} is None.")
    if start and states is None:
        raise ValueError(
            f"start={start} needs the hidden states that enter block {start}: pass states= (L, N, "
            f"W), for example from the same call with stop={start}."
        )


def _check_length(given: int, needed: int, name: str) -> None:
    if given < needed:
        raise ValueError(
            f"{name} hold {given} positions, but the last EOT of the tokens is at {needed - 1}: "
            f"at least {needed} positions are needed."
        )
