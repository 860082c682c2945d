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
    pick_rows,
)
from .compact import expand
from .layouts import NOT_WEIGHTS
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

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
HEAD_DIM = 64  # of every attention in OpenAI's models
PLAIN_DETAILS = ("trainer", "vision_ctx", "language_ctx")  # of design_details: alone change nothing


class CLIP(nn.Module):
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
        vision_heads: heads of the image tower (default: OpenAI's head width of 64).
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
        super().__init__()
        self.backbone_name = ""
        # how its images are prepared; resize: shortest (side, then centre crop) | squash
        self.image_mean, self.image_std = IMAGE_MEAN, IMAGE_STD
        self.image_interpolation, self.image_resize = "bicubic", "shortest"
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.visual: VisionTransformer | ModifiedResNet
        if isinstance(vision_layers, int):
            if vision_patch_size is None:
                raise ValueError("A vision transformer needs vision_patch_size, in pixels.")
            self.visual = VisionTransformer(
                image_resolution,
                vision_patch_size,
                vision_width,
                vision_layers,
                vision_heads or vision_width // HEAD_DIM,
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

    @property
    def activation(self) -> str:
        """The activation of the MLPs: "quick_gelu" (OpenAI's) or "gelu"."""
        layers = self.transformer.block(0).mlp
        return "quick_gelu" if any(isinstance(m, QuickGELU) for m in layers) else "gelu"

    def build_attention_mask(self) -> Tensor:
        """The additive causal mask of the text tower, (context_length, context_length)."""
        mask = torch.full((self.context_length, self.context_length), float("-inf"))
        return mask.triu(1)

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
    ) -> Tensor:
        """Encode prompts to raw (not normalised) features.

        Everything is cut to the longest EOT position of the batch: the mask is causal, so that
        nothing after it can matter.

        Args:
            tokens: (N, context) token ids; the feature is read at the first largest id (EOT).
            embeddings: (N, L, W) in place of the token embeddings, positions not yet added.
            hook: what a method adds to the tower.
            start: block that `states` enter, from 0.
            stop: return the hidden states that would enter this block; None = run the tower.
            states: (L, N, W) hidden states before block `start`; nothing before it is run.
            pool: False returns all tokens after the last block, (L, N, W); see `project_text`.
            shared: number of leading tokens that are the same in all N prompts; they are computed
                once (see Transformer.forward for what this asks of a hook).

        Returns:
            (N, D), or (L, N, W) hidden states with `pool=False` or `stop`, L = last EOT + 1.

        Raises:
            ValueError: if the tokens do not fit the tower or the embeddings, or are not shared.
        """
        _check_states(tokens, start, states, "tokens")
        eot = tokens.argmax(dim=-1)
        length = int(eot.max()) + 1
        x = self._embed_text(tokens, embeddings, states, length)
        if shared:
            _check_shared(tokens, eot, embeddings is None and states is None, shared)
        if states is None and hook is not None:
            x = hook.embed(x)
        is_pooled = pool and stop is None
        read = eot if is_pooled and not (hook is not None and hook.all_rows) else None
        x = self.transformer(x, hook=hook, start=start, stop=stop, read=read, shared=shared)
        if not is_pooled:
            return x
        # no block was run, or all rows were asked for: pick the EOT here
        rows = x if read is not None and start < self.transformer.layers else pick_rows(x, eot)
        return self.project_text(rows[0])

    def _embed_text(
        self, tokens: Tensor, embeddings: Tensor | None, states: Tensor | None, length: int
    ) -> Tensor:
        """The (L, N, W) tokens that enter the tower, cut to `length`."""
        if states is not None:
            _check_length(states.shape[0], length, "states")
            return states[:length].to(self.dtype)
        if embeddings is None:
            if tokens.shape[-1] > self.context_length:
                raise ValueError(
                    f"tokens have {tokens.shape[-1]} positions, the text tower of this backbone "
                    f"has {self.context_length}: use tokenize(texts, {self.context_length})."
                )
            embeddings = self.token_embedding(tokens[:, :length])
        _check_length(embeddings.shape[1], length, "embeddings")
        x = embeddings[:, :length].to(self.dtype)
        positions = self.positional_embedding[:length].to(self.dtype)
        return (x + positions).permute(1, 0, 2)  # (L, N, W)

    def project_image(self, rows: Tensor) -> Tensor:
        """(..., W) image tokens after the last block -> (..., D) raw features."""
        return self.visual.project(rows)

    def project_text(self, rows: Tensor) -> Tensor:
        """(..., W) text tokens after the last block -> (..., D) raw features."""
        return self.ln_final(rows).to(self.dtype) @ self.text_projection

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


def _check_shared(tokens: Tensor, eot: Tensor, compare: bool, shared: int) -> None:
    if shared > int(eot.min()):
        raise ValueError(
            f"shared={shared} tokens, but an EOT is at position {int(eot.min())}: the token that "
            "is read must come after the shared ones."
        )
    if compare and not (tokens[:, :shared] == tokens[:1, :shared]).all():
        raise ValueError(f"shared={shared}, but the first {shared} tokens of the prompts differ.")


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
    vision_key = "visual.proj" if "visual.proj" in state_dict else "visual.layer1.0.conv1.weight"
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
        "transformer_layers": _count(state_dict, "transformer.resblocks."),
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
    if precision == "fp16":
        convert_weights(model)
    model.load_state_dict(weights)
    return model.eval()


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
