"""The search for the inverse regularisation strength C of a linear probe.

Source: CoOp's ``lpclip`` (Zhou et al., IJCV 2022), cache_adapters section 4. Parity:
tests/golden/linear_probe.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

COARSE_C = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)


@dataclass
class SearchPath:
    """What the search looked at.

    Attributes:
        evaluated: every C in the order in which it was asked for, repeats included.
        coarse: validation scores at the coarse grid.
        kept: the interval end that each refinement step kept; the last one is the result.
    """

    evaluated: list[float] = field(default_factory=list)
    coarse: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)


def search_c(
    score: Callable[[float], float], num_step: int = 8, *, grid: Sequence[float] = COARSE_C
) -> SearchPath:
    """Coarse grid, then ``num_step`` bisections in log C around its first maximum.

    The kept C is an end of the last interval, not the best C seen: as in the official script.

    Args:
        score: C -> validation accuracy; asked again for a C that it knows (memoise it).
        num_step: bisections.
        grid: the coarse one.
    """
    path = SearchPath()

    def ask(c: float) -> float:
        path.evaluated.append(c)
        return score(c)

    path.coarse = [ask(c) for c in grid]
    peak = grid[int(np.argmax(path.coarse))]
    left, right = 1e-1 * peak, 1e1 * peak
    for _ in range(num_step):
        left_score, right_score = ask(left), ask(right)
        middle = 0.5 * (np.log10(right) + np.log10(left))
        if left_score < right_score:
            path.kept.append(right)
            left = float(np.power(10.0, middle))
        else:
            path.kept.append(left)
            right = float(np.power(10.0, middle))
    return path


def draw_rows(labels: Sequence[int], shots: int, generator: np.random.RandomState) -> np.ndarray:
    """Row numbers of ``shots`` rows per class, class by class in ascending order, unrepeated.

    Raises:
        ValueError: if a class has fewer rows.
    """
    all_labels = np.asarray(labels)
    chosen = []
    for label in np.unique(all_labels):
        rows = np.flatnonzero(all_labels == label)
        if len(rows) < shots:
            raise ValueError(
                f"Class {label} has {len(rows)} images, {shots} are asked for. Use fewer shots, or "
                "TRAINER.LINEARPROBE.DRAW coop."
            )
        chosen.append(generator.choice(rows, shots, replace=False))
    return np.concatenate(chosen)


def lpclip_rows(
    train_labels: Sequence[int],
    val_labels: Sequence[int],
    *,
    shots: int,
    val_shots: int = 4,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The script's draw, per class: ``shots`` training rows, then validation rows.

    Args:
        val_shots: of the validation split, min(shots, val_shots) rows; -1: all.
    """
    generator = np.random.RandomState(seed)
    train = draw_rows(train_labels, shots, generator)
    if val_shots < 0:
        return train, np.arange(len(val_labels))
    return train, draw_rows(val_labels, min(shots, val_shots), generator)
