"""The gradient projection of subspace prompt learning (Ma et al., arXiv 2211.02219)."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def project_gradients(gradients: Sequence[Tensor], basis: Tensor) -> None:
    """Replace gradients, seen as one vector g, by U^T U g, in place.

    Args:
        gradients: in the order of the vector.
        basis: U (K, P), a row per direction; P is the number of all elements together.

    Raises:
        ValueError: if U has another number of columns.

    Source: ``model_subspace_backward_and_update`` of the method's vendored Dassl 0.5.
    """
    vector = torch.cat([gradient.flatten() for gradient in gradients])
    if basis.shape[-1] != len(vector):
        raise ValueError(
            f"The basis self.U is {tuple(basis.shape)}, but the parameters with a gradient have "
            f"{len(vector)} elements: expected (K, {len(vector)})."
        )
    projected = basis.T @ (basis @ vector)
    parts = projected.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
