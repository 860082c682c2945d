"""TPT's text work per image: forward and backward to the context, then forward.

200 prompts, so that it ends soon; both sides are linear in their number.

The text tower of ViT-B/16 with random weights. Against: all 77 positions, and three full passes
(forward, backward, forward) per image as the official code runs them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.model import CLIP
from tools.benchmarks.text_tower import build_text_model
from trainers.tpt import Adapter, TestTimePrompt, average_entropy, view_entropies

VIEWS, CONFIDENT, CLASSES = 64, 6, 200
WORDS = ("red", "star", "gear", "moon", "leaf", "house", "arrow", "cloud", "ring", "drop")
MAX_DIFFERENCE = 1e-3  # of gradients, relative to the largest


def full_text(clip: CLIP, method: TestTimePrompt, ctx: Tensor) -> Tensor:
    """Unit text features over all 77 positions."""
    rest = clip.token_embedding(method.tokenized_prompts[:, 1 + len(ctx) :])
    prefix = method.token_prefix
    x = torch.cat([prefix, ctx.expand(len(prefix), -1, -1), rest], dim=1)
    x = (x + clip.positional_embedding).permute(1, 0, 2)
    x = clip.transformer(x).permute(1, 0, 2)
    rows = x[torch.arange(len(x), device=x.device), method.tokenized_prompts.argmax(dim=-1)]
    return F.normalize(clip.ln_final(rows) @ clip.text_projection, dim=-1)


def context_gradient(encode: Callable[[Tensor], Tensor], ctx: Tensor, views: Tensor, scale: Tensor):
    leaf = ctx.detach().clone().requires_grad_(True)
    logits = scale * views @ encode(leaf).t()
    selected = view_entropies(logits.detach()).topk(CONFIDENT, largest=False).indices
    (gradient,) = torch.autograd.grad(average_entropy(logits[selected]), leaf)
    return gradient


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _medians(pair: tuple[Callable, Callable], repeat: int) -> tuple[float, float]:
    times = [[_seconds(function) for function in pair] for _ in range(repeat)]
    return tuple(statistics.median(column) for column in zip(*times))


def run(args: argparse.Namespace) -> list[dict]:
    """Medians of alternating runs.

    Raises:
        RuntimeError: if the context gradients differ.
    """
    classes = 10 if args.quick else CLASSES
    clip = build_text_model().requires_grad_(False)
    names = [f"{WORDS[i % 10]} {WORDS[i // 10 % 10]} {WORDS[i // 100]}" for i in range(classes)]
    method = TestTimePrompt(clip, names)
    views = F.normalize(torch.randn(VIEWS, 512), dim=-1)
    scale = clip.logit_scale.exp()

    def full() -> Tensor:
        return context_gradient(lambda c: full_text(clip, method, c), method.ctx, views, scale)

    def cut() -> Tensor:
        return context_gradient(lambda c: method.text_of(clip, c), method.ctx, views, scale)

    def official() -> None:
        full()
        with torch.no_grad():
            full_text(clip, method, method.ctx)

    expected, actual = full(), cut()
    gap = float((expected - actual).abs().max() / expected.abs().max())
    if gap > MAX_DIFFERENCE:
        raise RuntimeError(f"Context gradients differ by {gap:.2g} of the largest.")
    optimizer = partial(torch.optim.AdamW, lr=5e-3, weight_decay=0.01)
    # the initial text features are computed once per dataset
    adapter = Adapter(method, clip, steps=1, optimizer=optimizer, confident=CONFIDENT)
    length = int(method.tokenized_prompts.argmax(dim=-1).max()) + 1
    plain, ours = _medians((full, cut), args.repeat)
    image, fast = _medians((official, lambda: adapter.adapt(views)), args.repeat)
    note = f"C={classes}, {length} of 77 positions; gradients {gap:.0e} apart"
    return [
        _row("text forward + backward", plain, ours, note),
        _row("one image after the encoder", image, fast, "graph of the initial context kept"),
    ]


def _row(name: str, baseline: float, ours: float, note: str) -> dict:
    speedup = baseline / ours
    return {
        "name": name,
        "baseline_s": baseline,
        "ours_s": ours,
        "speedup": speedup,
        "note": note,
    }
