"""AdamW for vectors and embeddings, orthogonalised momentum (Muon) for the matrices of blocks."""

import math
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration


def orthogonal(matrix: Tensor) -> Tensor:
    """(..., m, n) -> the nearest matrix with singular values near 1 (Newton-Schulz)."""
    a, b, c = COEFFICIENTS
    flip = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if flip else matrix
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if flip else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised; scaled so that AdamW's learning rates fit."""

    def __init__(self, params, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure is called
        for group in self.param_groups:
            shapes: dict[tuple, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(tuple(p.shape), []).append(p)
            for members in shapes.values():
                self._update(members, group)

    def _update(self, members: list[nn.Parameter], group: dict) -> None:
        updates = []
        for p, grad in ((p, p.grad) for p in members if p.grad is not None):
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            buffer = state["momentum"].lerp_(grad, 1 - group["momentum"])
            updates.append(grad.lerp(buffer, group["momentum"]))
        stacked = torch.stack(updates)
        rows, width = stacked.shape[-2:]
        parts = rows // width if rows % width == 0 and rows == 3 * width else 1  # q, k, v apart
        stacked = orthogonal(stacked.reshape(-1, rows // parts, width))
        scale = 0.2 * math.sqrt(max(stacked.shape[-2:]))
        for p, update in zip(members, stacked.reshape(len(members), rows, width)):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(update, alpha=-group["lr"] * scale)


def build(model: nn.Module, heads: nn.Module, *, use_muon: bool, lr: float) -> list:
    """Optimisers for a CLIP and its heads."""
    matrices, decayed, others = [], [], list(heads.parameters())
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if use_muon and "resblocks" in name and p.ndim == 2:
            matrices.append(p)
        elif p.ndim >= 2 and "embedding" not in name:
            decayed.append(p)
        else:
            others.append(p)
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    return [adam, Muon(matrices, lr=lr, weight_decay=0.05)] if matrices else [adam]
