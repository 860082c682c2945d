"""Distance matrices."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dassl.config import check_value, one_of


def compute_distance_matrix(input1: Tensor, input2: Tensor, metric: str = "euclidean") -> Tensor:
    """Return the (N, M) distances between the rows of (N, D) and (M, D).

    Args:
        input1: (N, D).
        input2: (M, D).
        metric: `euclidean` (squared) or `cosine` (1 - cosine similarity).
    """
    if input1.dim() != 2 or input2.dim() != 2 or input1.shape[1] != input2.shape[1]:
        raise ValueError(
            "Expected two matrices of the same width, got shapes "
            f"{tuple(input1.shape)} and {tuple(input2.shape)}."
        )
    check_value("metric", metric, one_of("euclidean", "cosine"))
    return (cosine_distance if metric == "cosine" else euclidean_squared_distance)(input1, input2)


def euclidean_squared_distance(input1: Tensor, input2: Tensor) -> Tensor:
    """Return |a|^2 + |b|^2 - 2 a.b for all pairs of rows, (N, M)."""
    squares = input1.square().sum(1, keepdim=True) + input2.square().sum(1)
    return torch.addmm(squares, input1, input2.t(), beta=1, alpha=-2)


def cosine_distance(input1: Tensor, input2: Tensor) -> Tensor:
    """Return 1 - cosine similarity for all pairs of rows, (N, M)."""
    return 1 - F.normalize(input1, dim=1) @ F.normalize(input2, dim=1).t()
