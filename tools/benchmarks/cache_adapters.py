"""Tip-Adapter's search, CLIP-Adapter's prompts and the linear probe's fits, each in both ways.

Random features: 1000 classes, 16 shots, 1024 dimensions. The reference of the search evaluates
settings from scratch; it is timed on 40 of the 4000 settings and scaled.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.benchmarks.text_tower import build_text_model
from trainers.clip_adapter import CLIPAdapterSettings, ImageAdapter
from trainers.common.text.encode import template_features
from trainers.linear_probe import accuracy, fit_logistic_regression
from trainers.linear_probe.c_search import search_c
from trainers.tip_adapter.scores import Grid, SearchResult, search

GRID = Grid((7.0, 3.0), (200, 20))  # the official grid of ImageNet
SMALL_GRID = Grid((7.0, 3.0), (12, 8))
TIMED_SETTINGS = 40
SCALE = 100.0


def evaluate_setting(
    features: Tensor, keys: Tensor, values: Tensor, classifier: Tensor, pair: tuple[float, float]
) -> Tensor:
    """Logits (n, C) of one (beta, alpha) from scratch, as the formula is written."""
    beta, alpha = pair
    affinity = features @ keys.t()
    cache = torch.exp(-beta * (1 - affinity)) @ values
    return SCALE * features @ classifier.t() + alpha * cache


def search_plainly(
    features: Tensor,
    keys: Tensor,
    values: Tensor,
    classifier: Tensor,
    labels: Tensor,
    grid: Grid,
) -> SearchResult:
    """Every setting from scratch; the first strictly best pair, beta in the outer loop."""
    best, chosen = 0.0, (grid.betas[0], grid.alphas[0])
    rows: list[list[float]] = []
    for beta in grid.betas:
        rows.append([])
        for alpha in grid.alphas:
            logits = evaluate_setting(features, keys, values, classifier, (beta, alpha))
            hits = 100.0 * (logits.argmax(dim=-1) == labels).double().mean().item()
            rows[-1].append(hits)
            if hits > best:
                best, chosen = hits, (beta, alpha)
    return SearchResult(torch.tensor(rows), *chosen)


def _world(classes: int, shots: int, dim: int, count: int) -> tuple[Tensor, ...]:
    """Features, keys, one-hot values, key labels, classifier and labels of a plausible problem."""
    centres = torch.randn(classes, dim)
    labels = torch.randint(classes, (count,))
    features = F.normalize(centres[labels] + 3.0 * torch.randn(count, dim), dim=-1)
    key_labels = torch.arange(classes).repeat_interleave(shots)
    keys = F.normalize(centres[key_labels] + 3.0 * torch.randn(len(key_labels), dim), dim=-1)
    classifier = F.normalize(centres + 4.0 * torch.randn(classes, dim), dim=-1)
    values = F.one_hot(key_labels, classes).float()
    return features, keys, values, key_labels, classifier, labels


@torch.no_grad()
def run(args: argparse.Namespace) -> list[dict]:
    """Time the three; rows as in ``tools/benchmark.py``.

    Raises:
        RuntimeError: if two ways of the same search give different winners.
    """
    torch.manual_seed(0)
    return [_search(args), _prompts(args), _fits(args)]


def _search(args: argparse.Namespace) -> dict:
    classes, count = (50, 100) if args.quick else (1000, 400)
    _check_same_winner()
    features, keys, values, key_labels, classifier, labels = _world(classes, 16, 1024, count)
    pairs = [(beta, alpha) for beta in GRID.betas for alpha in GRID.alphas]
    timed = pairs[:: len(pairs) // TIMED_SETTINGS][:TIMED_SETTINGS]
    plain = {}
    start = time.perf_counter()
    for pair in timed:
        logits = evaluate_setting(features, keys, values, classifier, pair)
        plain[pair] = 100.0 * (logits.argmax(dim=-1) == labels).double().mean().item()
    reference = (time.perf_counter() - start) * len(pairs) / len(timed)
    times = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        clip_logits = SCALE * features @ classifier.t()
        found = search(clip_logits, features @ keys.t(), key_labels, labels, GRID)
        times.append(time.perf_counter() - start)
    cells = found.accuracy.flatten().tolist()
    gap = max(abs(plain[pair] - cells[pairs.index(pair)]) for pair in timed)
    if gap > 1e-9:
        raise RuntimeError(f"Accuracies of the timed settings differ by up to {gap:.3g} points.")
    ours = statistics.median(times)
    return {
        "name": f"Tip-Adapter search, {len(pairs)} settings, C={classes}, {count} images",
        "baseline_s": reference,
        "ours_s": ours,
        "speedup": reference / ours,
        "note": f"goal 100 x; reference timed on {len(timed)} of {len(pairs)} settings and scaled; "
        f"those {len(timed)} accuracies are equal",
    }


def _check_same_winner() -> None:
    """On a small problem the whole grid is searched in both ways."""
    features, keys, values, key_labels, classifier, labels = _world(30, 4, 64, 300)
    plain = search_plainly(features, keys, values, classifier, labels, SMALL_GRID)
    clip_logits = SCALE * features @ classifier.t()
    fast = search(clip_logits, features @ keys.t(), key_labels, labels, SMALL_GRID)
    if (plain.beta, plain.alpha) != (fast.beta, fast.alpha):
        raise RuntimeError(f"Winners differ: {plain.beta, plain.alpha} {fast.beta, fast.alpha}.")


def _prompts(args: argparse.Namespace) -> dict:
    """A training step of CLIP-Adapter with and without encoding its prompts in every forward."""
    clip = build_text_model()
    names = [f"class number {i}" for i in range(20 if args.quick else 200)]
    template = ["a photo of a {}."]
    method = ImageAdapter(template_features(clip, names, template)[0], CLIPAdapterSettings())
    features, labels = torch.randn(32, 512), torch.randint(len(names), (32,))

    def step() -> None:
        with torch.enable_grad():
            method.losses(clip, features, labels)["loss"].backward()

    def step_with_prompts() -> None:
        method.raw_text_features.copy_(template_features(clip, names, template)[0])
        step()

    step_with_prompts()
    times = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        step_with_prompts()
        middle = time.perf_counter()
        step()
        times.append((middle - start, time.perf_counter() - middle))
    plain, ours = (statistics.median(column) for column in zip(*times))
    return {
        "name": f"CLIP-Adapter step on features, C={len(names)}, batch 32",
        "baseline_s": plain,
        "ours_s": ours,
        "speedup": plain / ours,
        "note": "reference encodes the prompts in every forward (image tower not counted)",
    }


def _fits(args: argparse.Namespace) -> dict:
    """The search for C with and without remembering classifiers."""
    classes, dim = (10, 32) if args.quick else (100, 128)
    features, keys, _, key_labels, _, labels = _world(classes, 8, dim, 400)
    train, held_out = (keys.numpy(), key_labels.numpy()), (features.numpy(), labels.numpy())
    fits = {"plain": 0}

    def fit(c: float) -> tuple:
        fits["plain"] += 1
        return fit_logistic_regression(*train, c, max_iter=100)

    start = time.perf_counter()
    plain = search_c(lambda c: accuracy(fit(c), *held_out))
    middle = time.perf_counter()
    memo = cache(lambda c: fit_logistic_regression(*train, c, max_iter=100))
    ours = search_c(lambda c: accuracy(memo(c), *held_out))
    end = time.perf_counter()
    if plain.kept != ours.kept:
        raise RuntimeError(f"The kept C differ: {plain.kept} and {ours.kept}.")
    return {
        "name": f"linear probe, search for C, C={classes} classes",
        "baseline_s": middle - start,
        "ours_s": end - middle,
        "speedup": (middle - start) / (end - middle),
        "note": f"{memo.cache_info().misses} fits in place of {fits['plain']}",
    }
