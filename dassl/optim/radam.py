"""RAdam as its authors published it (Liu et al., ICLR 2020, arXiv 1908.03265).

It differs from `torch.optim.RAdam`: weight decay is decoupled, eps is added to sqrt(v) without its
bias correction, and the momentum step is taken while N_sma < 5. Parity: tests/golden/engine.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_MIN_SMA = 5.0  # approximated length from which the variance is tractable


class RAdam(Optimizer):
    """Rectified Adam.

    m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, p <- p - wd lr p, then with the rectification
    factor r_t: p <- p - lr r_t m / ((1 - b1^t) (sqrt(v) + eps)), or, while N_sma < 5,
    p <- p - lr m / (1 - b1^t).

    Args:
        params: parameters or groups.
        lr: step size.
        betas: decay of the two moments.
        eps: added to sqrt(v).
        weight_decay: decoupled, times lr.
        degenerated_to_sgd: take the momentum step while N_sma < 5 (otherwise none).
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        degenerated_to_sgd: bool = True,
    ):
        if lr < 0 or eps < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"RAdam needs lr >= 0, eps >= 0 and betas in [0, 1); got lr {lr}, eps {eps}, "
                f"betas {betas}."
            )
        self.degenerated_to_sgd = degenerated_to_sgd
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return the closure's loss, if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, grad: Tensor, group: dict) -> None:
        if grad.is_sparse:
            raise RuntimeError("RAdam does not support sparse gradients; use OPTIM.NAME sgd.")
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32)
            state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32)
        beta1, beta2 = group["betas"]
        grad = grad.float()
        mean = state["exp_avg"].mul_(beta1).add_(grad, alpha=1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        state["step"] += 1
        rectification = _rectification(state["step"], beta2)
        if rectification is None and not self.degenerated_to_sgd:
            return
        value = parameter.float()
        if group["weight_decay"] != 0:
            value = value - group["weight_decay"] * group["lr"] * value
        step_size = group["lr"] / (1 - beta1 ** state["step"])
        if rectification is None:
            value = value - step_size * mean
        else:
            value = value - step_size * rectification * mean / (square.sqrt() + group["eps"])
        parameter.copy_(value)


def _rectification(step: int, beta2: float) -> float | None:
    """Return sqrt(1 - b2^t) r_t, or None while the variance is intractable."""
    decay = beta2**step
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * decay / (1 - decay)
    if length < _MIN_SMA:
        return None
    return math.sqrt(
        (1 - decay) * (length - 4) / (longest - 4) * (length - 2) / length * longest / (longest - 2)
    )
