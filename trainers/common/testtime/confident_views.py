"""Which views of a test image to trust: the lowest-entropy share of them.

Source: TPT (arXiv 2209.07511), used by DMN (arXiv 2403.17589), too.
"""

from typing import NamedTuple

import torch
from torch import Tensor

TIE = 1e-6  # probabilities this close to the largest count as equal: duplicate class names
VIEW_EPSILON, MEAN_EPSILON = 1e-6, 1e-8  # inside the logarithms, as in the official code


class Confident(NamedTuple):
    """What the text classifier says of one image.

    Attributes:
        text: (C,) probabilities of view 0.
        mean: (C,) mean probabilities of the confident views.
        label: the largest of ``mean``, the lowest index of equal ones; () int64.
        entropy: of ``mean``, in nats; ().
        selected: (k,) the confident views, ascending.
    """

    text: Tensor
    mean: Tensor
    label: Tensor
    entropy: Tensor
    selected: Tensor


def confident_count(views: int, share: float, *, key: str) -> int:
    """k = int(views * share), truncated.

    Raises:
        ValueError: if that selects no view; ``key`` is the config node that is named.
    """
    count = int(views * share)
    if not 1 <= count <= views:
        raise ValueError(
            f"{key}.SELECTION_P {share} of {key}.N_VIEWS {views} keeps {count} views; it must keep "
            f"1 to {views}. Use at least {-(-1 // share) if share > 0 else 1:.0f} views, or a "
            "larger share."
        )
    return count


def least_entropy_views(entropies: Tensor, count: int) -> Tensor:
    """(V,) entropies -> (count,) indices of the smallest, ascending; of equal ones the first."""
    return entropies.argsort(stable=True)[:count].sort().values


def repeated_rows(rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """(C, D) -> the rows that equal an earlier one, and the first such row of each, (n,) both.

    None if all rows differ.
    """
    unique, places = rows.unique(dim=0, return_inverse=True)
    if len(unique) == len(rows):
        return None
    numbers = torch.arange(len(rows), device=rows.device)
    first = numbers.new_full((len(unique),), len(rows))
    first = first.scatter_reduce(0, places, numbers, reduce="amin")[places]
    later = (first != numbers).nonzero().flatten()
    return later, first[later]


def confident_prediction(
    views: Tensor,
    text_features: Tensor,
    scale: float,
    count: int,
    repeats: tuple[Tensor, Tensor] | None = None,
) -> Confident:
    """Classify the views of ONE image.

    One code path per image on purpose: the same image then gives the same bits of entropy, and
    exact ties of the write rule survive.

    Args:
        views: (V, D) unit rows, view 0 not augmented.
        text_features: (C, D) unit rows.
        scale: the multiplier of cosines.
        count: number of confident views.
        repeats: ``repeated_rows(text_features)``. A matrix product may round equal rows
            differently; with this, classes of equal names tie exactly.
    """
    probabilities = (scale * (views @ text_features.t())).softmax(dim=-1)  # (V, C)
    if repeats is not None:
        later, first = repeats
        probabilities[:, later] = probabilities[:, first]
    entropies = -(probabilities * (probabilities + VIEW_EPSILON).log()).sum(dim=-1)
    selected = least_entropy_views(entropies, count)
    mean = probabilities[selected].mean(dim=0)
    label = (mean >= mean.max() - TIE).to(torch.uint8).argmax()
    entropy = -(mean * (mean + MEAN_EPSILON).log()).sum()
    return Confident(probabilities[0], mean, label, entropy, selected)
