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
MATRIX_BYTES = 2**28  # cosines between images and keys that the search of features keeps at once


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


def affinities(features: Tensor, keys: Tensor) -> Tensor:
    """Cosines (n, N) between images (n, D) and keys (N, D), unit rows."""
    return features @ keys.t()


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
    return _result(_correct(clip_logits, affinities, key_labels, labels, grid), len(labels), grid)


@torch.no_grad()
def search_features(
    clip_logits: Tensor,
    features: Tensor,
    keys: Tensor,
    key_labels: Tensor,
    labels: Tensor,
    grid: Grid,
) -> SearchResult:
    """``search`` with the cosines of at most MATRIX_BYTES at a time.

    Args:
        clip_logits: (n, C), scaled.
        features: (n, D) unit rows.
        keys: (N, D).
        key_labels: (N,) class of every key.
        labels: (n,) true classes.
    """
    inner = _block_rows(clip_logits, len(keys))
    fitting = MATRIX_BYTES // (len(keys) * keys.element_size())
    rows = max(1, fitting // inner) * inner  # the blocks of the whole matrix
    correct = torch.zeros(grid.steps, dtype=torch.int64, device=labels.device)
    for begin in range(0, len(labels), rows):
        block = slice(begin, begin + rows)
        cosines = affinities(features[block], keys)
        correct += _correct(clip_logits[block], cosines, key_labels, labels[block], grid)
    return _result(correct, len(labels), grid)


def _block_rows(clip_logits: Tensor, num_keys: int) -> int:
    """Images of a block that the processor's cache holds."""
    rows = max(1, BLOCK_VALUES // num_keys)
    return 64 * rows if clip_logits.is_cuda else rows


def _correct(
    clip_logits: Tensor, affinities: Tensor, key_labels: Tensor, labels: Tensor, grid: Grid
) -> Tensor:
    """(betas, alphas) number of correct rows; arguments as in ``search``."""
    order = cyclic_order(key_labels)
    sums = ClassSums(key_labels[order], clip_logits.shape[1])
    correct = torch.zeros(grid.steps, dtype=torch.int64, device=labels.device)
    rows = _block_rows(clip_logits, affinities.shape[1])
    for begin in range(0, len(labels), rows):
        block = slice(begin, begin + rows)
        scorer = _AlphaScorer(clip_logits[block], labels[block], grid.alphas)
        distances = affinities[block][:, order] - 1
        powers = torch.empty_like(distances)
        for i, beta in enumerate(grid.betas):
            torch.mul(distances, beta, out=powers).exp_()
            correct[i] += scorer(sums(powers))
    return correct


def _result(correct: Tensor, count: int, grid: Grid) -> SearchResult:
    """(betas, alphas) correct rows of ``count`` -> percent, and the first maximum."""
    beta, alpha = divmod(int(correct.flatten().argmax()), grid.steps[1])
    return SearchResult(100.0 * correct.double() / count, grid.betas[beta], grid.alphas[alpha])


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
