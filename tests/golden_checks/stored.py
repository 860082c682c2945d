"""Stand-ins for the networks of cases that hold features: they encode nothing but given texts."""

import re
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from clip.tokens import OwnTokens, default_tokenizer
from dassl.features.encoder import Encoder

UNIT_PIXELS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SIDE = 8  # pixels that no image has


class StoredClip(nn.Module):
    """A CLIP whose texts "sentence <t> of class <c>." (default t: 0) have given features.

    Args:
        features: (C, D), or (C, T, D) for T sentences per class.
        scale: exp(logit_scale).
    """

    backbone_name, dtype, image_mean, image_std = "stored", torch.float32, (0.0,) * 3, (1.0,) * 3
    image_interpolation, image_resize = "bicubic", "shortest"
    is_causal, activation = True, "quick_gelu"

    def __init__(self, features: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.features = features[:, None] if features.ndim == 2 else features
        self.logit_scale = nn.Parameter(torch.tensor(float(scale)).log())
        self.visual = SimpleNamespace(input_resolution=SIDE, output_dim=features.shape[-1])

    @property
    def classnames(self) -> list[str]:
        """Names of the classes, as the texts call them."""
        return [f"class {c}" for c in range(len(self.features))]

    @property
    def templates(self) -> list[str]:
        """One per sentence."""
        return [f"sentence {t} of {{}}." for t in range(self.features.shape[1])]

    tokenizer, context_length = OwnTokens(), 77

    def tokenize(self, texts: list[str]) -> Tensor:
        """(N, 77) token ids."""
        return self.tokenizer(texts, self.context_length)

    def read_positions(self, tokens: Tensor) -> Tensor:
        """(N, L) -> (N,): of the end token."""
        return self.tokenizer.ends(tokens)

    def prompt_lengths(self, tokens: Tensor) -> Tensor:
        """(N, L) -> (N,): up to the end token."""
        return self.read_positions(tokens) + 1

    def encode_text(self, tokens: Tensor, **_) -> Tensor:
        """(N, L) token ids -> (N, D)."""
        return torch.stack([self._row(default_tokenizer().decode(ids.tolist())) for ids in tokens])

    def _row(self, text: str) -> Tensor:
        number = {}
        for word in ("sentence", "class"):  # digits are tokens of their own
            found = re.search(rf"{word} ((?:\d ?)+)", text)
            number[word] = int(found.group(1).replace(" ", "")) if found else 0
        return self.features[number["class"], number["sentence"]]


class StoredEncoder(Encoder):
    """An encoder of D features that sees no image.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(nn.Identity(), **UNIT_PIXELS, name="stored", size=SIDE, dim=dim)

    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("The case holds features, no images.")
