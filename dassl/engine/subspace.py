"""The gradient projection of subspace prompt learning (Ma et al., arXiv 2211.02219)."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def project_gradients(parameters: Sequence[Tensor], basis: Tensor) -> None:
    """Replace the gradients, seen as one vector g, by U^T U g.

    Args:
        parameters: those that have a gradient, in the order of the vector.
        basis: U (K, P), a row per direction; P is the number of all elements together.

    Raises:
        ValueError: if U has another number of columns.

    Source: ``model_subspace_backward_and_update`` of the method's vendored Dassl 0.5.
    """
    gradient = torch.cat([p.grad.flatten() for p in parameters])
    if basis.shape[-1] != len(gradient):
        raise ValueError(
            f"The basis self.U is {tuple(basis.shape)}, but the parameters with a gradient have "
            f"{len(gradient)} elements: expected (K, {len(gradient)})."
        )
    projected = basis.T @ (basis @ gradient)
    parts = projected.split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad.copy_(part.view_as(parameter))
