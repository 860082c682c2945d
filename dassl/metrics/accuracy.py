"""Top-k accuracy."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def compute_accuracy(
    output: Tensor | Sequence[Tensor], target: Tensor, topk: Sequence[int] = (1,)
) -> list[Tensor]:
    """Return the accuracy in percent for each k, as tensors of shape (1,).

    Args:
        output: (B, C) scores; of a tuple or list the first element counts.
        target: (B,) labels.
        topk: each k counts a sample as correct if its label is among the k largest scores.
    """
    if not isinstance(output, Tensor):
        output = output[0]
    largest = max(topk)
    if largest > output.shape[1]:
        raise ValueError(f"top-{largest} accuracy needs {largest} classes, got {output.shape[1]}.")
    ranked = output.topk(largest, dim=1).indices  # (B, largest)
    hits = ranked == target.view(-1, 1)
    return [hits[:, :k].float().sum().mul(100.0 / target.shape[0]).reshape(1) for k in topk]
