"""Weighted sum of the probabilities of several classifiers, and the search for its weights.

Source: DMN (arXiv 2403.17589); the grid and its order are those of the official code.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
SEARCH_ROWS = 4096  # images at once
FIXED_ALPHA = {  # the weights of `last` where ALPHA is not given
    "zero_shot": (1.0, 1.0, 0.0),
    "training_free": (1.0, 1.0, 1.0),
    "few_shot": (1.0, 1.0, 0.3),
}


def fuse(parts: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor:
    """sum_i weights_i parts_i over (n, C) probabilities; a missing part counts nothing."""
    pairs = zip(parts, weights, strict=True)
    return reduce(torch.add, [weight * part for part, weight in pairs if part is not None])


def search_weights(
    text: Tensor, dynamic: Tensor, static: Tensor | None, labels: Tensor
) -> tuple[float, tuple[float, float, float]]:
    """Weights (1, a2, a3) of the best accuracy; the first strictly best counts, a2 outer loop.

    Args:
        text, dynamic, static: (N, C) probabilities; without shots there is no static part, a3 = 0.
        labels: (N,).

    Returns:
        accuracy in percent, the three weights.
    """
    static_grid = GRID if static is not None else (0.0,)
    correct = torch.zeros(len(GRID), len(static_grid), dtype=torch.int64)
    for rows in torch.arange(len(labels)).split(SEARCH_ROWS):
        truth = labels[rows]
        for i, a2 in enumerate(GRID):
            partial = text[rows] + a2 * dynamic[rows]
            for j, a3 in enumerate(static_grid):
                fused = partial if static is None else partial + a3 * static[rows]
                correct[i, j] += (fused.argmax(dim=-1) == truth).sum().cpu()
    best = int(correct.flatten().argmax())  # the first of the largest
    i, j = divmod(best, len(static_grid))
    accuracy = 100.0 * int(correct[i, j]) / len(labels)
    return accuracy, (1.0, GRID[i], static_grid[j])
