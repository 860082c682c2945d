"""The gradient projection of ProGrad (Zhu et al., ICCV 2023, arXiv 2205.14865)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def loss_gradients(
    loss_a: Tensor, loss_b: Tensor, parameters: Sequence[Tensor]
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients of both losses, None where a loss does not depend on a parameter."""
    gradients_b = torch.autograd.grad(loss_b, parameters, retain_graph=True, allow_unused=True)
    gradients_a = torch.autograd.grad(loss_a, parameters, allow_unused=True)
    return list(gradients_a), list(gradients_b)


def project(
    gradients_a: Sequence[Tensor | None],
    gradients_b: Sequence[Tensor | None],
    strength: float = 1.0,
) -> list[Tensor | None]:
    """The first gradients, without the part that points against the descent of the second.

    u = g_b / ||g_b||;  g = g_a - strength * <g_a, u> u  where <g_a / ||g_a||, u> < 0,  else g_a

    Per parameter tensor. None where the first is None.

    Source: ``prograd_backward_and_update`` of Dassl 0.5 as vendored by the KgCoOp lineage.
    """
    return [_project(a, b, strength) for a, b in zip(gradients_a, gradients_b, strict=True)]


def _project(a: Tensor | None, b: Tensor | None, strength: float) -> Tensor | None:
    if a is None or b is None:
        return a
    direction = b / torch.linalg.vector_norm(b)
    # parity: the sign is taken from the normalised g_a
    if (a / torch.linalg.vector_norm(a) * direction).sum() < 0:
        return a - strength * (a * direction).sum() * direction
    return a
