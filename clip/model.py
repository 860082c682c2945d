"""The one CLIP: image tower, text tower, logit scale; built from any OpenAI-layout state dict.

CLIP: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
ICML 2021, arXiv:2103.00020. Parity is tested in tests/golden/clip. The official code is MIT.

Precision: `convert_weights` stores matrices in float16 and keeps norms, embeddings and the logit
scale in float32 (how OpenAI ships the models); activations follow `CLIP.dtype`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .blocks import (
    OWN_CLIP,
    Attention,
    BlockView,
    LayerNorm,
    QuickGELU,
    ResidualAttentionBlock,
    TowerHook,
    Transformer,
)
from .compact import expand
from .layouts import NOT_WEIGHTS
from .two_towers import TwoTowers
from .vision import AttentionPool2d, Bottleneck, ModifiedResNet, VisionTransformer

__all__ = [
    "CLIP",
    "Attention",
    "AttentionPool2d",
    "BlockView",
    "Bottleneck",
    "LayerNorm",
    "ModifiedResNet",
    "QuickGELU",
    "ResidualAttentionBlock",
    "TowerHook",
    "Transformer",
    "VisionTransformer",
    "architecture",
    "build_clip",
    "build_model",
    "convert_weights",
]

HEAD_DIM = 64  # of every attention in OpenAI's models
HEAD_DIMS = {1280: 80}  # width of an image tower -> of its attention: ViT-H (open_clip's configs)
PLAIN_DETAILS = ("trainer", "vision_ctx", "language_ctx")  # of design_details: alone change nothing


class CLIP(TwoTowers):
    """logits = exp(logit_scale) * norm(image features) @ norm(text features).T

    Args:
        embed_dim: feature width D.
        image_resolution: side of the square input in pixels.
        vision_layers: blocks of the ViT, or four stage lengths of the ResNet.
        vision_width: width of the ViT, or of the ResNet's stem.
        vision_patch_size: pixels; None for a ResNet.
        context_length: positions of the text tower.
        vocab_size: rows of the token embedding.
        transformer_width: width W of the text tower.
        transformer_heads: heads of the text tower.
        transformer_layers: blocks of the text tower.
        vision_heads: heads of the image tower (default: a head width of 64, in a ViT-H of 80).
        activation: class of the activation in every MLP.
    """

    def __init__(
        self,
        embed_dim: int,
        image_resolution: int,
        vision_layers: int | Sequence[int],
        vision_width: int,
        vision_patch_size: int | None,
        context_length: int,
        vocab_size: int,
        transformer_width: int,
        transformer_heads: int,
        transformer_layers: int,
        *,
        vision_heads: int | None = None,
        activation: type[nn.Module] = QuickGELU,
    ):
        super().__init__(context_length)
        self.vocab_size = vocab_size
        if isinstance(vision_layers, int):
            if vision_patch_size is None:
                raise ValueError("A vision transformer needs vision_patch_size, in pixels.")
            self.visual = VisionTransformer(
                image_resolution,
                vision_patch_size,
                vision_width,
                vision_layers,
                vision_heads or vision_width // HEAD_DIMS.get(vision_width, HEAD_DIM),
                embed_dim,
                activation=activation,
            )
        else:
            self.visual = ModifiedResNet(
                vision_layers,
                embed_dim,
                vision_heads or vision_width * 32 // HEAD_DIM,
                image_resolution,
                vision_width,
            )
        self.transformer = Transformer(
            transformer_width,
            transformer_layers,
            transformer_heads,
            causal=True,
            activation=activation,
        )
        self.token_embedding = nn.Embedding(vocab_size, transformer_width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, transformer_width))
        self.ln_final = LayerNorm(transformer_width)
        self.text_projection = nn.Parameter(torch.empty(transformer_width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=transformer_width**-0.5)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations: that of the first image convolution."""
        return self.visual.conv1.weight.dtype

    def build_attention_mask(self) -> Tensor:
        """The additive causal mask of the text tower, (context_length, context_length)."""
        mask = torch.full((self.context_length, self.context_length), float("-inf"))
        return mask.triu(1)


def convert_weights(model: nn.Module) -> None:
    """Store convolutions, linear layers, attention and output projections in float16, in place.

    Norms, embeddings and the logit scale stay as they are. torch's own attention counts, too.
    """
    for module in model.modules():
        names = ["text_projection", "proj"]
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            names = ["weight", "bias"]
        elif isinstance(module, (Attention, nn.MultiheadAttention)):
            names = ["in_proj_weight", "in_proj_bias", "bias_k", "bias_v"]
            names += [f"{part}_proj_weight" for part in "qkv"]
        for name in names:
            tensor = getattr(module, name, None)
            if isinstance(tensor, Tensor):
                tensor.data = tensor.data.to(torch.float16)


def _count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    """The number of distinct indices that follow `prefix` in the keys."""
    return len({key[len(prefix) :].split(".")[0] for key in state_dict if key.startswith(prefix)})


def _grid(state_dict: Mapping[str, Tensor], key: str) -> int:
    rows = state_dict[key].shape[0]
    grid = round((rows - 1) ** 0.5)
    if grid**2 + 1 != rows:
        raise ValueError(f"{key} has {rows} rows; expected g * g + 1 for a square grid of patches.")
    return grid


def architecture(state_dict: Mapping[str, Tensor]) -> dict:
    """The arguments of CLIP, read from the keys and shapes of a state dict in OpenAI's layout.

    Raises:
        ValueError: if the state dict is not an OpenAI-layout CLIP.
    """
    text_keys = ("text_projection", "positional_embedding", "token_embedding.weight")
    kinds = ("visual.proj", "visual.layer1.0.conv1.weight")  # of a ViT, of a ResNet
    vision_key = next((key for key in kinds if key in state_dict), " or ".join(kinds))
    missing = [k for k in (*text_keys, "ln_final.weight", vision_key) if k not in state_dict]
    if missing:
        raise ValueError(
            f"This is not a CLIP state dict in OpenAI's layout: it has no {', '.join(missing)}. "
            f"Its first keys are {', '.join(list(state_dict)[:4]) or '(none)'}."
        )
    layers: int | tuple[int, ...]
    if vision_key == "visual.proj":
        width, _, patch, _ = state_dict["visual.conv1.weight"].shape
        suffix = ".attn.in_proj_weight"
        layers = sum(k.startswith("visual.") and k.endswith(suffix) for k in state_dict)
        resolution = patch * _grid(state_dict, "visual.positional_embedding")
    else:
        width, patch = state_dict[vision_key].shape[0], None
        layers = tuple(_count(state_dict, f"visual.layer{s}.") for s in (1, 2, 3, 4))
        resolution = 32 * _grid(state_dict, "visual.attnpool.positional_embedding")
    text_layers = _count(state_dict, "transformer.resblocks.")
    if not text_layers or not layers:
        raise ValueError(
            "This is not a CLIP state dict in OpenAI's layout: it has no blocks "
            "(transformer.resblocks.0..., visual.transformer.resblocks.0...)."
        )
    text_width = state_dict["ln_final.weight"].shape[0]
    return {
        "embed_dim": state_dict["text_projection"].shape[1],
        "image_resolution": resolution,
        "vision_layers": layers,
        "vision_width": width,
        "vision_patch_size": patch,
        "context_length": state_dict["positional_embedding"].shape[0],
        "vocab_size": state_dict["token_embedding.weight"].shape[0],
        "transformer_width": text_width,
        "transformer_heads": text_width // HEAD_DIM,
        "transformer_layers": text_layers,
    }


def build_clip(state_dict: Mapping[str, Tensor], *, precision: str = "fp32", **overrides) -> CLIP:
    """Build CLIP from a state dict in OpenAI's layout, in eval mode.

    Args:
        state_dict: weights, whole or compact (clip/compact.py).
        precision: "fp32", or "fp16" for OpenAI's mixed storage (see `convert_weights`).
        overrides: arguments of CLIP that the weights cannot tell: vision_heads,
            transformer_heads, activation.

    Raises:
        ValueError: if the weights are not a CLIP, or `precision` is unknown.
        RuntimeError: if weights are missing, unexpected or of another shape.
    """
    if precision not in ("fp32", "fp16"):
        raise ValueError(f'precision is "{precision}"; expected "fp32" or "fp16".')
    weights = {k: v for k, v in expand(state_dict).items() if k not in NOT_WEIGHTS}
    model = CLIP(**{**architecture(weights), **overrides})
    _check_names(set(weights), set(model.state_dict()))
    if precision == "fp16":
        convert_weights(model)
    model.load_state_dict(weights)
    return model.eval()


def _check_names(given: set[str], expected: set[str]) -> None:
    missing, unknown = sorted(expected - given), sorted(given - expected)
    if missing:
        raise RuntimeError(
            f"The weights lack {len(missing)} of the {len(expected)} entries of this CLIP: "
            f"{', '.join(missing[:4])}."
        )
    if unknown:
        raise RuntimeError(f"The weights hold entries that CLIP lacks: {', '.join(unknown[:4])}.")


def build_model(state_dict: Mapping[str, Tensor], design_details: Mapping | None = None) -> CLIP:
    """Build CLIP as OpenAI's package does: matrices in float16, eval mode.

    Args:
        state_dict: weights in OpenAI's layout.
        design_details: what prompt-learning code passes to its own fork of CLIP; accepted if it
            asks for the plain model, that is, if all depths in it are 0 and nothing else is set.

    Raises:
        ValueError: if `design_details` asks for prompts or tokens inside the towers.
    """
    asked = {k: v for k, v in (design_details or {}).items() if k not in PLAIN_DETAILS and v}
    if asked:
        raise ValueError(f"design_details asks for more than the plain towers: {asked}. {OWN_CLIP}")
    return build_clip(state_dict, precision="fp16")
