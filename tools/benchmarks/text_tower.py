"""The text tower on C prompts: cut at the longest EOT, against all 77 positions.

Random weights in the shapes of ViT-B/16's text tower (width 512, 8 heads, 12 blocks).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from clip import tokenize
from clip.model import CLIP

TEMPLATE = "a photo of a {}."
COLOURS = ("red", "orange", "yellow", "green", "cyan")
SHAPES = ("circle", "square", "triangle", "pentagon", "hexagon", "star", "cross", "heart", "flower",
          "gear", "ring", "moon", "diamond", "oval", "drop", "leaf", "arrow", "house", "cloud",
          "shield")  # fmt: skip
MAX_DIFFERENCE = 1e-5  # of float32 features


def build_text_model(seed: int = 0) -> CLIP:
    """A CLIP with ViT-B/16's text tower and the smallest image tower, random weights."""
    torch.manual_seed(seed)
    return CLIP(
        embed_dim=512,
        image_resolution=32,
        vision_layers=1,
        vision_width=64,
        vision_patch_size=32,
        context_length=77,
        vocab_size=49408,
        transformer_width=512,
        transformer_heads=8,
        transformer_layers=12,
    ).eval()


def encode_plainly(model: CLIP, tokens: Tensor) -> Tensor:
    """The same tower over all positions and all rows of every block."""
    x = model.token_embedding(tokens) + model.positional_embedding  # (N, L, W)
    x = model.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
    x = model.ln_final(x) @ model.text_projection
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)]


def _seconds(function: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.no_grad()
def run(args: argparse.Namespace) -> list[dict]:
    """Time both in turn and take the median.

    Args:
        args: `repeat` timings; `quick` encodes a tenth of the prompts.

    Returns:
        Rows with name, baseline_s, ours_s, speedup, note; the last row shares the first words of
        the prompts, too.

    Raises:
        RuntimeError: if the features differ by more than MAX_DIFFERENCE.
    """
    model = build_text_model()
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    names = names[::10] if args.quick else names
    tokens = tokenize([TEMPLATE.format(name) for name in names])
    shared = 1 + len(TEMPLATE.split("{}")[0].split())  # start token and the words before the name
    variants = {
        f"text tower, C={len(names)}, cut at the EOT": lambda: model.encode_text(tokens),
        "  + shared first words": lambda: model.encode_text(tokens, shared=shared),
    }
    baseline = encode_plainly(model, tokens)  # also warms up
    length = int(tokens.argmax(dim=-1).max()) + 1
    rows = []
    for name, encode in variants.items():
        difference = float((encode() - baseline).abs().max())
        if difference > MAX_DIFFERENCE:
            raise RuntimeError(f"{name}: features differ by {difference:.2g} > {MAX_DIFFERENCE}.")
        pairs = [
            (_seconds(lambda: encode_plainly(model, tokens)), _seconds(encode))
            for _ in range(args.repeat)
        ]
        baseline_s, ours_s = (statistics.median(times) for times in zip(*pairs))
        rows.append(
            {
                "name": name,
                "baseline_s": baseline_s,
                "ours_s": ours_s,
                "speedup": baseline_s / ours_s,
                "note": f"{length} of 77 positions; max difference {difference:.1e}",
            }
        )
    return rows
