"""The two image towers of CLIP: the vision transformer and the modified ResNet.

CLIP: Radford et al., ICML 2021, arXiv:2103.00020. Parity is tested in tests/golden/clip.
The official code is MIT.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import LayerNorm, QuickGELU, TowerHook, Transformer, check_plain_call, pick_rows

HOOKABLE = "ViT-B/32, ViT-B/16, ViT-L/14, ViT-L/14@336px, toy/ViT"


def check_size(images: Tensor, side: int) -> None:
    """Refuse images of another size than the tower's.

    Raises:
        ValueError: naming both.
    """
    if images.shape[-2:] != (side, side):
        raise ValueError(
            f"Images are {images.shape[-2]} x {images.shape[-1]} pixels, this backbone takes "
            f"{side} x {side}. Set INPUT.SIZE to ({side}, {side})."
        )


class VisionTransformer(nn.Module):
    """conv1 -> class token -> positions -> ln_pre -> blocks -> token 0 -> ln_post -> proj.

    Args:
        input_resolution: side of the square input in pixels.
        patch_size: side of a patch in pixels.
        width: W.
        layers: blocks.
        heads: attention heads.
        output_dim: feature width D.
        activation: class of the activation in every MLP.
    """

    def __init__(
        self,
        input_resolution: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        output_dim: int,
        *,
        activation: type[nn.Module] = QuickGELU,
    ):
        super().__init__()
        self.input_resolution = input_resolution
        self.output_dim = output_dim
        tokens = (input_resolution // patch_size) ** 2 + 1
        scale = width**-0.5
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(tokens, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, activation=activation)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, output_dim))

    def embed(self, images: Tensor) -> Tensor:
        """(N, 3, H, H) -> (L, N, W) tokens with positions, before ln_pre. Token 0 is CLS."""
        check_size(images, self.input_resolution)
        x = self.conv1(images).flatten(2).permute(2, 0, 1)  # (g * g, N, W)
        cls = self.class_embedding.to(x.dtype).expand(1, x.shape[1], -1)
        return torch.cat([cls, x]) + self.positional_embedding.to(x.dtype)[:, None]

    def forward(
        self,
        images: Tensor | None,
        *more: object,
        hook: TowerHook | None = None,
        start: int = 0,
        stop: int | None = None,
        states: Tensor | None = None,
        pool: bool = True,
    ) -> Tensor:
        """(N, 3, H, H) -> (N, D) raw features; see CLIP.encode_image."""
        check_plain_call("image tower", images, more)
        if states is not None:
            x = states
        elif images is not None:
            x = self.embed(images)
            x = self.ln_pre(x if hook is None else hook.embed(x))
        else:
            raise ValueError("Nothing to encode: images and states are None.")
        is_pooled = pool and stop is None
        read = 0 if is_pooled and not (hook is not None and hook.all_rows) else None
        x = self.transformer(x, hook=hook, start=start, stop=stop, read=read)
        return self.project(pick_rows(x, 0)[0]) if is_pooled else x

    def project(self, rows: Tensor) -> Tensor:
        """(..., W) tokens after the last block -> (..., D) features: ln_post, then proj."""
        return self.ln_post(rows) @ self.proj


class Bottleneck(nn.Module):
    """1x1 conv, 3x3 conv, average pooling by the stride, 1x1 conv, plus identity; BN after each.

    All convolutions have stride 1; the identity path pools, too, then changes the channels.
    """

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1):
        super().__init__()
        out = planes * self.expansion
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride > 1 or inplanes != out:
            layers = [
                ("-1", nn.AvgPool2d(stride)),
                ("0", nn.Conv2d(inplanes, out, 1, bias=False)),
                ("1", nn.BatchNorm2d(out)),
            ]
            self.downsample = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(N, inplanes, H, H) -> (N, 4 planes, H / stride, H / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(self.avgpool(x)))
        return F.relu(x + identity)


class AttentionPool2d(nn.Module):
    """Multi-head attention whose single query is the mean over positions.

    Args:
        spacial_dim: side g of the feature map.
        embed_dim: channels.
        num_heads: attention heads.
        output_dim: feature width D (default: embed_dim).
    """

    def __init__(
        self, spacial_dim: int, embed_dim: int, num_heads: int, output_dim: int | None = None
    ):
        super().__init__()
        std = embed_dim**-0.5
        self.positional_embedding = nn.Parameter(std * torch.randn(spacial_dim**2 + 1, embed_dim))
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.c_proj = nn.Linear(embed_dim, output_dim or embed_dim)
        self.num_heads = num_heads

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, g, g) -> (N, D)."""
        x = x.flatten(2).transpose(1, 2)  # (N, g * g, C)
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        x = x + self.positional_embedding.to(x.dtype)
        q, k, v = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).flatten(1))


class ModifiedResNet(nn.Module):
    """ResNet with a three-convolution stem, pooling instead of strides, and attention pooling.

    Args:
        layers: bottlenecks in each of the four stages.
        output_dim: feature width D.
        heads: heads of the attention pooling.
        input_resolution: side of the square input in pixels, a multiple of 32.
        width: channels of the stem.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        layers: Sequence[int],
        output_dim: int,
        heads: int,
        input_resolution: int = 224,
        width: int = 64,
    ):
        super().__init__()
        self.output_dim = output_dim
        self.input_resolution = input_resolution
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        channels = width
        for stage, blocks in enumerate(layers):
            planes, stride = width * 2**stage, 1 if stage == 0 else 2
            first = Bottleneck(channels, planes, stride)
            channels = planes * Bottleneck.expansion
            rest = [Bottleneck(channels, planes) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
        self.attnpool = AttentionPool2d(input_resolution // 32, channels, heads, output_dim)

    def forward(
        self,
        images: Tensor,
        *more: object,
        hook: TowerHook | None = None,
        start: int = 0,
        stop: int | None = None,
        states: Tensor | None = None,
        pool: bool = True,
    ) -> Tensor:
        """(N, 3, H, H) -> (N, D) raw features.

        Raises:
            ValueError: for everything that needs transformer blocks, or another input size.
        """
        check_plain_call("image tower", images, more)
        if hook is not None or states is not None or start or stop is not None or not pool:
            raise ValueError(
                "A ResNet image tower has no transformer blocks: it takes no hook, start, stop or "
                f"states and returns pooled features only. Backbones that work: {HOOKABLE}."
            )
        check_size(images, self.input_resolution)
        x = images.to(self.conv1.weight.dtype)
        for conv, bn in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(bn(conv(x)))
        x = self.avgpool(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.attnpool(x)

    def project(self, rows: Tensor) -> Tensor:
        """Refused: a ResNet has no token features to project."""
        raise ValueError(
            "project_image needs the tokens of a vision transformer, this backbone is a ResNet. "
            f"Backbones that work: {HOOKABLE}."
        )
