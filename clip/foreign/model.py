"""An open_clip model of another layout than CLIP's, with the same members as our CLIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..tokens import ForeignTokens
from ..two_towers import TwoTowers
from .blocks import without
from .image import image_tower, same_features
from .text import TextReadout, take_text_tower

TEXT_PROMPTS = (
    "OpenAI's, and all of open_clip but those with a Hugging Face text tower (roberta, xlm-roberta "
    "and nllb; see docs/backbones.md)"
)
TEXT_INTERNALS = (
    "transformer",
    "token_embedding",
    "positional_embedding",
    "ln_final",
    "text_projection",
)
PLAIN = {"start": 0, "pool": True, "shared": 0}  # options that ask for nothing; others: None


class NoTextInternals(AttributeError, ValueError):
    """A text tower that only encodes whole texts was asked for more; `hasattr` answers False."""


class OpenCLIP(TwoTowers):
    """Both towers of an open_clip model, behind the members of TwoTowers.

    Design. The text tower becomes our Transformer on the same weights, so that hooks, hidden
    states and rows that are read are those of our CLIP; only what surrounds the blocks differs
    (`TextReadout`: pooling, class token, mask; projection with a bias). open_clip's ViT does
    likewise. Blocks of timm stay timm's, each behind the call of ours (`TimmBlock`), between
    timm's own embedding and pooling. A tower that has no blocks, or gives other features than
    open_clip once taken apart, encodes as open_clip does and refuses all else, naming the
    backbones that work. The tokenizer is the model's own; its markers are learned from what it
    makes of an empty text. Where the text tower is not causal, whole rows are encoded
    (`prompt_lengths`), and nothing is shared between prompts.
    """

    def __init__(self, inner: Any, tokenizer: Callable[..., Tensor]) -> None:
        """Args: inner: in eval mode, float32; its weights are shared. tokenizer: open_clip's."""
        import open_clip

        super().__init__(getattr(tokenizer, "context_length", None) or inner.context_length)
        self.tokenizer = ForeignTokens(tokenizer)
        self.logit_scale = nn.Parameter(inner.logit_scale.detach().reshape(()))
        if inner.logit_bias is not None:
            self.logit_bias = nn.Parameter(inner.logit_bias.detach().reshape(()))
        size = open_clip.get_model_preprocess_cfg(inner)["size"]
        side = size if isinstance(size, int) else size[0]
        noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = inner.encode_image(noise, normalize=False)
            self.visual = image_tower(inner.visual, side, noise, expected)
        self.readout = self._take_text(inner)

    @torch.no_grad()
    def _take_text(self, inner: Any) -> TextReadout | None:
        """Take the text tower over, or keep it as it is: None."""
        try:
            readout = self.readout = take_text_tower(self, inner)
            tokens = self.tokenize(["a", "a red cat"])
            if same_features(self.encode_text(tokens), inner.encode_text(tokens, normalize=False)):
                return readout
        except (AttributeError, ValueError, RuntimeError):
            pass
        for name in TEXT_INTERNALS:
            if name in self._modules or name in self._parameters:
                delattr(self, name)
        self.text_class = self.text_projection_bias = None
        self.is_causal = False
        self.text_model = without(inner, "visual")
        return None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations: that of the image tower's weights."""
        return next(self.visual.parameters()).dtype

    def read_positions(self, tokens: Tensor) -> Tensor:
        ends = self.end_positions(tokens)
        return ends if self.readout is None else self.readout.positions(tokens, ends)

    def text_mask(self, tokens: Tensor) -> Tensor | None:
        return None if self.readout is None else self.readout.mask(tokens)

    def encode_text(self, tokens: Tensor, **options: Any) -> Tensor:
        """See TwoTowers.encode_text; a text tower that is not ours takes token ids alone.

        Raises:
            NoTextInternals: for anything else in that case.
        """
        if self.readout is not None:
            return super().encode_text(tokens, **options)
        options.pop("read", None)  # whole texts are encoded: where they are read is open_clip's
        asked = sorted(key for key, value in options.items() if value != PLAIN.get(key))
        if asked:
            self._refuse_text(", ".join(asked))
        return self.text_model.encode_text(tokens, normalize=False)

    def project_text(self, rows: Tensor) -> Tensor:
        if self.readout is None:
            self._refuse_text("project_text")
        return super().project_text(rows)

    def half(self) -> OpenCLIP:
        """All weights in float16; the logit scale stays in float32."""
        super().half()
        self.logit_scale.data = self.logit_scale.data.float()
        return self

    def _refuse_text(self, what: str) -> NoReturn:
        raise NoTextInternals(
            f"{self.backbone_name or 'This backbone'} has a text tower that only encodes whole "
            f"texts: {what} is not available. Backbones that work: {TEXT_PROMPTS}."
        )

    def __getattr__(self, name: str) -> Any:
        if name in TEXT_INTERNALS and "text_model" in self._modules:
            self._refuse_text(name)
        return super().__getattr__(name)
