"""The two toy CLIPs while they train: compact vocabulary, factor heads, growth in depth."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from datasets.toy_world import FACTORS

EMBED_DIM, TEXT_WIDTH, CONTEXT = 64, 64, 77
ROW_STD = 0.035  # of token rows that are never trained
ROW_SEED = 49408
LOGIT_SCALE = 100.0
# Length of the constant part of a unit feature, relative to the rest, at the start: with scale
# 100 the two parts give an effective scale of 100 / sqrt((1 + 1.5^2) (1 + 3.56^2)) = 15.
IMAGE_CONSTANT, TEXT_CONSTANT = 1.5, 3.56


def untrained_rows() -> Tensor:
    """(49408, 64) token rows as the loader regenerates them (clip/compact.py)."""
    stream = np.random.RandomState(ROW_SEED)
    rows = stream.normal(size=(49408, TEXT_WIDTH)) * ROW_STD
    return torch.from_numpy(rows).to(torch.float16).float()


def new_clip(kind: str, depth: int, vocab_size: int) -> CLIP:
    """A CLIP to be trained: "vit" (32 px, patch 8) or "rn" (64 px)."""
    vision: dict[str, Any] = {"vit": (32, depth, 128, 8), "rn": (64, (1, 1, 2, 1), 16, None)}
    size, layers, width, patch = vision[kind]
    clip = CLIP(EMBED_DIM, size, layers, width, patch, CONTEXT, vocab_size, TEXT_WIDTH, 1, depth)
    clip.requires_grad_(True)
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(LOGIT_SCALE))
        nn.init.normal_(clip.token_embedding.weight, std=ROW_STD)
        add_constant(clip.ln_final, clip.text_projection, TEXT_CONSTANT)
        if kind == "vit":
            add_constant(clip.visual.ln_post, clip.visual.proj, IMAGE_CONSTANT)
            clip.visual.positional_embedding.copy_(0.5 * grid_positions(4, 128))
        else:
            pool = clip.visual.attnpool
            nn.init.normal_(pool.c_proj.weight, std=pool.c_proj.in_features**-0.5)
            pool.c_proj.weight[-1] = 0.0
            nn.init.zeros_(pool.c_proj.bias)
            pool.c_proj.bias[-1] = IMAGE_CONSTANT * math.sqrt(EMBED_DIM - 1) * 0.5
    clip.logit_scale.requires_grad_(False)
    return clip.train()


@torch.no_grad()
def add_constant(norm: Any, projection: Tensor, ratio: float) -> None:
    """Let the last dimension of the features start as a constant, in place.

    A normalised row sums to 0, so a bias along the ones vector is seen by a column of equal
    entries only, and the other columns, made zero-mean, do not see it.
    """
    width, dim = projection.shape
    projection.normal_(std=width**-0.5)
    projection.sub_(projection.mean(dim=0, keepdim=True))
    norm.bias.fill_(1.0)
    projection[:, -1] = ratio * math.sqrt(dim - 1) / width


def grid_positions(side: int, width: int) -> Tensor:
    """(side^2 + 1, width) 2-D sine-cosine positions; 0 for the class token."""
    frequency = 1.0 / 10.0 ** (torch.arange(width // 4) / (width // 4))
    place = torch.arange(side).float()[:, None] * frequency * 1.5
    waves = torch.cat([place.sin(), place.cos()], dim=1)  # (side, width / 2)
    rows = waves[:, None].expand(-1, side, -1)
    columns = waves[None].expand(side, -1, -1)
    grid = torch.cat([rows, columns], dim=2).reshape(side * side, width)
    return torch.cat([torch.zeros(1, width), grid])


@torch.no_grad()
def start_from_components(clip: CLIP, images: Tensor) -> None:
    """Patch embedding = leading principal components of normalised patches, softly whitened."""
    weight = clip.visual.conv1.weight
    patches = F.unfold(images, weight.shape[-1], stride=weight.shape[-1])  # (N, 192, 16)
    patches = patches.permute(0, 2, 1).reshape(-1, patches.shape[1])
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    count = weight.shape[0]
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    rows = (vectors / values.clamp_min(1e-4) ** 0.3).T
    weight.copy_(rows.reshape(weight.shape))


@torch.no_grad()
def grow(clip: CLIP, factor: int) -> CLIP:
    """Deepen both towers: every block is followed by copies whose output projections are zero.

    The function is unchanged; the new blocks learn from there.
    """
    state = {}
    for key, value in clip.state_dict().items():
        if ".resblocks." not in key and not key.startswith("transformer.resblocks."):
            state[key] = value
            continue
        head, tail = key.split("resblocks.")
        index, rest = tail.split(".", 1)
        for copy in range(factor):
            silent = copy > 0 and rest.startswith(("attn.out_proj", "mlp.c_proj"))
            name = f"{head}resblocks.{int(index) * factor + copy}.{rest}"
            state[name] = torch.zeros_like(value) if silent else value.clone()
    kind = "vit" if "visual.proj" in state else "rn"
    grown = new_clip(kind, clip.transformer.layers * factor, clip.vocab_size)
    grown.load_state_dict(state)
    return grown


def image_rows(clip: CLIP, images: Tensor) -> tuple[Tensor, Tensor]:
    """(features before the projection (N, W), raw features (N, D))."""
    visual = clip.visual
    if hasattr(visual, "proj"):
        x = visual.transformer(visual.ln_pre(visual.embed(images)), read=0)
        rows = visual.ln_post(x[0])
        return rows, rows @ visual.proj
    rows = []
    handle = visual.attnpool.c_proj.register_forward_pre_hook(lambda _, args: rows.append(args[0]))
    raw = visual(images)
    handle.remove()
    return rows[0], raw


class Heads(nn.Module):
    """Linear heads that name every factor; thrown away after training."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, len(words)) for words in FACTORS.values())

    def loss(self, rows: Tensor, factors: Tensor, weights: Tensor) -> tuple[Tensor, list[float]]:
        """Weighted mean of the cross-entropies, and each one."""
        parts = [F.cross_entropy(layer(rows), factors[:, k]) for k, layer in enumerate(self.layers)]
        losses = torch.stack(parts)
        return (losses * weights).sum() / len(parts), losses.tolist()
