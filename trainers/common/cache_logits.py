"""Class scores from a cache of labelled features, and the search of their two weights.

Source: Tip-Adapter (Zhang et al., ECCV 2022, arXiv 2207.09519), cache_adapters section 1.
Parity: tests/golden/tip_adapter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GRID_START = 0.1  # lower end of both axes of the search, fixed in the official code
BLOCK_VALUES = 2**19  # float32 values of a block's largest matrix: what a core's cache holds


def cache_keys(raw_views: Tensor) -> Tensor:
    """Raw features (V, N, D) of V passes over the shots -> keys (N, D), unit rows of the mean."""
    return F.normalize(raw_views.mean(dim=0), dim=-1)


class ClassSums:
    """Sums columns (n, N) over the shots of each class: the product with one-hot values.

    Args:
        labels: (N,) class of every key.
        num_classes: C.
    """

    def __init__(self, labels: Tensor, num_classes: int) -> None:
        self.labels, self.num_classes = labels, num_classes
        self.shots = shots = len(labels) // max(1, num_classes)
        cycle = torch.arange(num_classes, device=labels.device).repeat(shots)
        self.is_cyclic = len(labels) == len(cycle) and bool((labels == cycle).all())

    def __call__(self, columns: Tensor) -> Tensor:
        """(n, N) -> (n, C)."""
        if self.is_cyclic:  # keys in the order 0 ... C-1, 0 ... C-1: a sum over whole rows
            return columns.unflatten(1, (self.shots, self.num_classes)).sum(dim=1)
        sums = columns.new_zeros(len(columns), self.num_classes)
        return sums.index_add(1, self.labels, columns)


def cyclic_order(labels: Tensor) -> Tensor:
    """(N,) places of the keys: first shot of every class, second shot of every class, ..."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(labels), device=labels.device) - starts[labels[order]]
    return order[(rank * len(counts) + labels[order]).argsort()]


def cache_scores(affinities: Tensor, beta: float | Tensor, sums: ClassSums) -> Tensor:
    """(n, N) cosines between images and keys -> (n, C): sum of exp(-beta (1 - A)) per class."""
    return sums(torch.exp(beta * (affinities - 1)))


@dataclass(frozen=True)
class Grid:
    """The values that the search tries: 0.1 + i (scale - 0.1) / steps, the upper end excluded.

    Args:
        scale: upper ends (beta, alpha); TRAINER.TIPADAPTER.SEARCH_SCALE.
        steps: numbers of values (beta, alpha); TRAINER.TIPADAPTER.SEARCH_STEP.
    """

    scale: tuple[float, float]
    steps: tuple[int, int]

    @property
    def betas(self) -> list[float]:
        """Values of beta, ascending; the outer loop."""
        return self._values(0)

    @property
    def alphas(self) -> list[float]:
        """Values of alpha, ascending; the inner loop."""
        return self._values(1)

    def _values(self, axis: int) -> list[float]:
        step = (self.scale[axis] - GRID_START) / self.steps[axis]
        return [GRID_START + i * step for i in range(self.steps[axis])]


@dataclass(frozen=True)
class SearchResult:
    """Accuracy of every pair, and the pair that wins.

    Attributes:
        accuracy: (betas, alphas), percent, float64.
        beta, alpha: the first pair, beta in the outer loop, that is strictly best.
    """

    accuracy: Tensor
    beta: float
    alpha: float


@torch.no_grad()
def search(
    clip_logits: Tensor,
    affinities: Tensor,
    key_labels: Tensor,
    labels: Tensor,
    grid: Grid,
) -> SearchResult:
    """Accuracy of clip_logits + alpha * cache_scores(beta) for every pair of the grid.

    Cosines and CLIP's logits are given once; a beta costs one exponential and one sum per class, an
    alpha one scaled addition and one maximum. Blocks of rows stay in the processor's cache.

    Args:
        clip_logits: (n, C), scaled.
        affinities: (n, N) cosines.
        key_labels: (N,) class of every key.
        labels: (n,) true classes.
    """
    num_classes = clip_logits.shape[1]
    order = cyclic_order(key_labels)
    sums = ClassSums(key_labels[order], num_classes)
    betas, alphas = grid.betas, grid.alphas
    correct = torch.zeros(len(betas), len(alphas), dtype=torch.int64, device=labels.device)
    rows = max(1, BLOCK_VALUES // affinities.shape[1])
    if clip_logits.is_cuda:
        rows *= 64
    for begin in range(0, len(labels), rows):
        block = slice(begin, begin + rows)
        scorer = _AlphaScorer(clip_logits[block], labels[block], alphas)
        distances = affinities[block][:, order] - 1
        powers = torch.empty_like(distances)
        for i, beta in enumerate(betas):
            torch.mul(distances, beta, out=powers).exp_()
            correct[i] += scorer(sums(powers))
    best = int(correct.flatten().argmax())  # the first maximum
    return SearchResult(
        100.0 * correct.double() / len(labels),
        betas[best // len(alphas)],
        alphas[best % len(alphas)],
    )


class _AlphaScorer:
    """Counts correct predictions of clip_logits + alpha * scores for all alphas of a block.

    The true class is kept apart from the others: one maximum per alpha says whether it wins. In
    the rare event of a tie the first class wins, as with argmax.
    """

    def __init__(self, clip_logits: Tensor, labels: Tensor, alphas: Sequence[float]) -> None:
        self.labels, self.alphas = labels[:, None], alphas
        self.clip_logits = clip_logits
        self.own = clip_logits.gather(1, self.labels)
        self.others = clip_logits.scatter(1, self.labels, -torch.inf)
        self.buffer = torch.empty_like(clip_logits)

    def __call__(self, scores: Tensor) -> Tensor:
        """(n, C) cache scores -> (alphas,) number of correct rows."""
        own_scores = scores.gather(1, self.labels)
        best = torch.cat(
            [
                torch.add(self.others, scores, alpha=alpha, out=self.buffer).amax(1, keepdim=True)
                for alpha in self.alphas
            ],
            dim=1,
        )  # (n, alphas)
        factors = own_scores.new_tensor(self.alphas)
        own = self.own + own_scores * factors
        counts = (own > best).sum(dim=0)
        ties = (own == best).any(dim=0)
        for j in ties.nonzero().flatten().tolist():
            logits = torch.add(self.clip_logits, scores, alpha=self.alphas[j])
            counts[j] = (logits.argmax(dim=1, keepdim=True) == self.labels).sum()
        return counts
