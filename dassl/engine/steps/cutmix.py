"""CutMix: a box of another image of the batch is pasted in, and its label shares the loss.

Yun et al., ICCV 2019, arXiv 1905.04899. The VL2V-ADiP code has it in every class, switched off.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Mixed(NamedTuple):
    """Images (B, 3, H, W), both labels (B,), and the share of the first label."""

    images: Tensor
    first: Tensor
    second: Tensor
    share: float


class CutMix:
    """With probability ``prob``: box side ratio sqrt(1 - lambda), lambda ~ Beta(beta, beta).

    Args:
        beta: 0 switches it off.
        prob: share of steps.
    """

    def __init__(self, beta: float, prob: float) -> None:
        if beta < 0 or not 0 <= prob <= 1:
            raise ValueError(
                f"STEPS.CUTMIX_BETA is {beta} and STEPS.CUTMIX_PROB {prob}; expected a number >= 0 "
                "and one in [0, 1]."
            )
        self.beta = beta
        self.prob = prob

    @property
    def is_on(self) -> bool:
        """Whether any step is mixed."""
        return self.beta > 0 and self.prob > 0

    def draw(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Mixed:
        """Mix a batch, or leave it as it is (share 1), by a CPU generator."""
        if torch.rand((), generator=generator).item() >= self.prob:
            return Mixed(images, labels, labels, 1.0)
        share = _beta(self.beta, generator)
        order = torch.randperm(len(images), generator=generator).to(images.device)
        top, bottom = _span(images.shape[2], share, generator)
        left, right = _span(images.shape[3], share, generator)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[order, :, top:bottom, left:right]
        area = (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
        return Mixed(mixed, labels, labels[order], 1.0 - area)


def _beta(beta: float, generator: torch.Generator) -> float:
    # parameter tensors of one element each; the draw itself must come from the generator
    a, b = torch._standard_gamma(torch.full((2,), beta), generator=generator).tolist()
    return a / (a + b)


def _span(length: int, share: float, generator: torch.Generator) -> tuple[int, int]:
    """A stretch of sqrt(1 - share) of the length around a random centre, clipped to the image."""
    half = int(length * (1.0 - share) ** 0.5) // 2
    centre = int(torch.randint(length, (), generator=generator))
    return max(centre - half, 0), min(centre + half, length)
