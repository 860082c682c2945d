"""Image towers of open_clip models.

`BlockTower` runs blocks between the embedding and the pooling of another library, with the call of
our VisionTransformer; hooks and hidden states work in it. What a hook appends stands after the
tower's own tokens and is left out of the pooling.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..blocks import BlockStack, TowerHook
from ..vision import HOOKABLE, check_size
from .blocks import SINGLE_TOKENS, TimmBlock, own_transformer, without

OPEN_CLIP_VITS = "plain, CLIPA, CoCa, SigLIP, PE-Core, EVA, ViTamin, MobileCLIP-B and -L"
TOLERANCE = 1e-3  # of the largest feature: rounding is far below, a wrong layout above
IMAGE_HOOKS = f"{HOOKABLE}, and the ViTs of open_clip ({OPEN_CLIP_VITS}; see docs/backbones.md)"


class ForeignTower(nn.Module):
    """What all image towers of this folder have.

    Attributes:
        input_resolution: side of the square input in pixels.
        output_dim: feature width D.
    """

    def __init__(self, input_resolution: int, output_dim: int) -> None:
        super().__init__()
        self.input_resolution, self.output_dim = input_resolution, output_dim

    def refuse(self, what: str, works: str) -> NoReturn:
        """Say what the tower does not have, and which ones do."""
        raise ValueError(f"This image tower has no {what}. Backbones that work: {works}.")


class PooledTower(ForeignTower):
    """A tower that gives pooled features only (ResNet, ConvNeXt, FastViT)."""

    def __init__(self, theirs: nn.Module, input_resolution: int, output_dim: int) -> None:
        super().__init__(input_resolution, output_dim)
        self.inner = theirs

    def forward(self, images: Tensor, **options: Any) -> Tensor:
        """(N, 3, H, H) -> (N, D) raw features.

        Raises:
            ValueError: for everything that needs transformer blocks, or another input size.
        """
        plain = {"hook": None, "start": 0, "stop": None, "states": None, "pool": True}
        if any(options[key] is not plain[key] for key in options):
            what = "transformer blocks and takes no hook, start, stop, states or pool=False"
            self.refuse(what, IMAGE_HOOKS)
        check_size(images, self.input_resolution)
        features = self.inner(images)
        return features[0] if isinstance(features, tuple) else features

    def project(self, rows: Tensor) -> Tensor:
        """Refused: there are no token features."""
        self.refuse("token features to project", SINGLE_TOKENS)


class BlockTower(ForeignTower):
    """embed -> hook.embed -> enter -> blocks -> pool; token layout (L, N, W)."""

    def __init__(self, transformer: BlockStack, input_resolution: int, output_dim: int) -> None:
        super().__init__(input_resolution, output_dim)
        self.transformer = transformer

    def embed(self, images: Tensor) -> Tensor:
        """(N, 3, H, H) -> (L, N, W) tokens with positions."""
        raise TypeError(f"{type(self).__name__} does not override embed(images).")

    def enter(self, x: Tensor) -> Tensor:
        """The norm before the first block, if there is one: (L, N, W) -> (L, N, W)."""
        raise TypeError(f"{type(self).__name__} does not override enter(x).")

    def pool(self, x: Tensor) -> Tensor:
        """The tower's own tokens after the last block, (N, L, W) -> (N, D) raw features."""
        raise TypeError(f"{type(self).__name__} does not override pool(x).")

    @property
    def own_tokens(self) -> int:
        """Number of tokens without a hook."""
        raise TypeError(f"{type(self).__name__} does not override own_tokens.")

    def forward(
        self,
        images: Tensor | None,
        *,
        hook: TowerHook | None = None,
        start: int = 0,
        stop: int | None = None,
        states: Tensor | None = None,
        pool: bool = True,
    ) -> Tensor:
        """(N, 3, H, H) -> (N, D) raw features; see TwoTowers.encode_image."""
        if states is not None:
            x = states
        elif images is not None:
            check_size(images, self.input_resolution)
            x = self.embed(images)
            x = self.enter(x if hook is None else hook.embed(x))
        else:
            raise ValueError("Nothing to encode: images and states are None.")
        x = self.transformer(x, hook=hook, start=start, stop=stop)
        if stop is not None or not pool:
            return x
        return self.pool(x[: self.own_tokens].transpose(0, 1))

    @property
    def class_embedding(self) -> Tensor:
        """The embedding of the class token; refused where timm keeps the tower."""
        self.refuse("class token that a method may copy", SINGLE_TOKENS)

    def project(self, rows: Tensor) -> Tensor:
        """(..., W) tokens after the last block -> (..., D), where one token makes a feature."""
        self.refuse("feature of a single token", SINGLE_TOKENS)


class PatchTower(BlockTower):
    """open_clip's VisionTransformer: class token, then patches; pooling by token, mean or query."""

    def __init__(self, theirs: Any, input_resolution: int, output_dim: int) -> None:
        """Raises: ValueError, RuntimeError for parts that we do not have."""
        is_known = getattr(theirs, "attn_pool_contrastive", None) is None
        if theirs.pool_type not in ("tok", "avg") or not is_known:
            raise ValueError(f'its image tower pools by "{theirs.pool_type}"')
        transformer = own_transformer(theirs.transformer, causal=False)
        super().__init__(transformer, input_resolution, output_dim)
        self.inner = without(theirs, "transformer")

    @property
    def class_embedding(self) -> Tensor:
        """(W,)"""
        return self.inner.class_embedding

    @property
    def own_tokens(self) -> int:
        return len(self.inner.positional_embedding)

    def embed(self, images: Tensor) -> Tensor:
        x = self.inner.conv1(images).flatten(2).permute(2, 0, 1)  # (g * g, N, W)
        cls = self.class_embedding.to(x.dtype).expand(1, x.shape[1], -1)
        return torch.cat([cls, x]) + self.inner.positional_embedding.to(x.dtype)[:, None]

    def enter(self, x: Tensor) -> Tensor:
        return self.inner.ln_pre(x)

    ln_pre = enter  # as our own VisionTransformer calls it

    def pool(self, x: Tensor) -> Tensor:
        inner = self.inner
        if inner.attn_pool is not None:
            x = inner.attn_pool(x)
        if not inner.final_ln_after_pool:
            x = inner.ln_post(x)
        x = x[:, 0] if inner.pool_type == "tok" else x[:, 1:].mean(dim=1)
        is_normed = not inner.final_ln_after_pool or inner.attn_pool is not None
        return (x if is_normed else inner.ln_post(x)) @ inner.proj

    def project(self, rows: Tensor) -> Tensor:
        """(..., W) tokens after the last block -> (..., D) features: ln_post, then proj."""
        if self.inner.attn_pool is not None:
            self.refuse("feature of a single token (it pools by attention)", SINGLE_TOKENS)
        return self.inner.ln_post(rows) @ self.inner.proj


class TimmTower(BlockTower):
    """A ViT of timm (SigLIP, EVA, PE-Core, ViTamin): its own embedding, pooling and head."""

    def __init__(self, theirs: Any, input_resolution: int, output_dim: int) -> None:
        """Raises: ValueError, AttributeError for a network that is not a ViT."""
        trunk = theirs.trunk
        if not all(hasattr(trunk, name) for name in ("_pos_embed", "norm_pre", "forward_head")):
            raise ValueError(f"timm's {type(trunk).__name__} is not a ViT")
        rotary = getattr(trunk, "rope", None)
        rope = None if rotary is None else rotary.get_embed()
        if rope is not None and rope.ndim != 2:
            raise ValueError("its rotary positions differ from block to block")
        blocks = BlockStack(trunk.embed_dim, [TimmBlock(block, rope) for block in trunk.blocks])
        super().__init__(blocks, input_resolution, output_dim)
        self.trunk, self.head = without(trunk, "blocks"), theirs.head
        with torch.no_grad():
            pixels = next(trunk.parameters()).new_zeros(1, 3, input_resolution, input_resolution)
            self._own_tokens = len(self.embed(pixels))

    @property
    def own_tokens(self) -> int:
        return self._own_tokens

    def embed(self, images: Tensor) -> Tensor:
        x = self.trunk._pos_embed(self.trunk.patch_embed(images))
        return (x[0] if isinstance(x, tuple) else x).transpose(0, 1)  # with rotary positions: both

    def enter(self, x: Tensor) -> Tensor:
        return self.trunk.norm_pre(x)

    def pool(self, x: Tensor) -> Tensor:
        return self.head(self.trunk.forward_head(self.trunk.norm(x)))


def image_tower(theirs: Any, input_resolution: int, images: Tensor, expected: Tensor) -> Any:
    """The tower with hooks if it then gives `expected` (N, D) for `images`, else without."""
    output_dim = expected.shape[-1]
    for kind in (PatchTower, TimmTower):
        try:
            tower = kind(theirs, input_resolution, output_dim).eval()
        except (AttributeError, ValueError, RuntimeError):
            continue
        if same_features(tower(images), expected):
            return tower
    return PooledTower(theirs, input_resolution, output_dim)


def same_features(given: Tensor, expected: Tensor) -> bool:
    """Whether two sets of features are equal up to the rounding of float32."""
    scale = float(expected.abs().max())
    return given.shape == expected.shape and torch.allclose(
        given, expected, rtol=0, atol=TOLERANCE * scale
    )
