"""How unsure CLIP is about an image: one factor per row of class scores.

Source: AMU-Tuning (Tang et al., CVPR 2024), amu_tuning section 4. Parity: tests/golden/amu.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

KURTOSIS_SCALE = 250.0  # fixed in the official code, also for other numbers of classes
ENERGY_TEMPERATURE = 2.0
TOP = 5


def uncertainty_factor(clip_logits: Tensor, kind: str, power: float) -> Tensor:
    """The factor r of every image; constant with respect to what is learned.

    Args:
        clip_logits: (B, C), already multiplied by the logit scale.
        kind: one of ``UNCERTAINTY_TYPES``; everything acts on p = softmax(clip_logits).
        power: exponent rho; ``none`` and ``var`` ignore it.

    Returns:
        (B, 1), float32.

    Raises:
        ValueError: for top5 with fewer than five classes.
    """
    probabilities = clip_logits.detach().float().softmax(dim=-1)
    return _FACTORS[kind](probabilities, power)


def standardise(scores: Tensor) -> Tensor:
    """(B, C) -> (score - mean) / std per row, std with divisor C - 1 and without an epsilon."""
    centred = scores - scores.mean(dim=-1, keepdim=True)
    length = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    return centred * ((scores.shape[-1] - 1) ** 0.5 / length)


def _none(p: Tensor, power: float) -> Tensor:
    return p.new_ones(len(p), 1)


def _moment(p: Tensor, power: float) -> Tensor:
    """(kappa / 250)^-rho; kappa = mean of ((p - m) / std)^4, std with divisor C - 1."""
    kurtosis = standardise(p).square_().square_().mean(dim=-1, keepdim=True)
    return (kurtosis / KURTOSIS_SCALE) ** -power


def _entropy(p: Tensor, power: float) -> Tensor:
    """exp(rho H), H = -sum p log p / log C in [0, 1].

    A p that underflows to 0 (logits more than about 100 apart) counts its limit, 0. Officially
    0 * log 0 is NaN there: in training it would make all of W NaN, in a test predict class 0.
    """
    entropy = torch.special.entr(p).sum(dim=-1, keepdim=True) / math.log(p.shape[-1])
    return torch.exp(power * entropy)


def _energy(p: Tensor, power: float) -> Tensor:
    top = p.amax(dim=-1, keepdim=True)
    log_sum = ((p - top) / ENERGY_TEMPERATURE).exp().sum(dim=-1, keepdim=True).log()
    return (ENERGY_TEMPERATURE * (log_sum + top)) ** -power


def _max(p: Tensor, power: float) -> Tensor:
    return p.amax(dim=-1, keepdim=True) ** -power


def _max_min(p: Tensor, power: float) -> Tensor:
    return (p.amax(dim=-1, keepdim=True) - p.amin(dim=-1, keepdim=True)) ** -power


def _top5(p: Tensor, power: float) -> Tensor:
    """Largest minus fifth largest probability."""
    if p.shape[-1] < TOP:
        raise ValueError(
            f"TRAINER.AMU.UNCENT_TYPE top5 needs at least {TOP} classes, there are {p.shape[-1]}. "
            "Use moment, max or entropy."
        )
    largest = p.topk(TOP, dim=-1).values
    return (largest[:, :1] - largest[:, -1:]) ** -power


def _var(p: Tensor, power: float) -> Tensor:
    """The standard deviation (divisor C - 1): larger when CLIP is sure; rho is ignored."""
    return p.std(dim=-1, keepdim=True)


_FACTORS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": _none,
    "entropy": _entropy,
    "energy": _energy,
    "max": _max,
    "max-min": _max_min,
    "var": _var,
    "top5": _top5,
    "moment": _moment,
}
UNCERTAINTY_TYPES = tuple(_FACTORS)
