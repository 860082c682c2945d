"""Means over seeds, their spread, and the harmonic mean of base and new accuracy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return math.fsum(values) / len(values)


def dassl_spread(values: Sequence[float], *, ci95: bool = False) -> float:
    """As Dassl's parser: divisor n; `ci95` is 1.96 std / sqrt(n), too narrow for few seeds."""
    std = statistics.pstdev(values)
    return 1.96 * std / math.sqrt(len(values)) if ci95 else std


def spread(values: Sequence[float], *, ci95: bool = False) -> float:
    """Standard deviation of two or more values (divisor n - 1).

    With `ci95` half of the 95 % confidence interval of their mean, by Student's t.
    """
    std = statistics.stdev(values)
    if not ci95:
        return std
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(len(values) - 1, 0.975)) * std / math.sqrt(len(values))


def spread_in_words(counts: Sequence[int], *, ci95: bool = False) -> str:
    """What stands after ±, for cells over these numbers of seeds; "" where there is one seed."""
    counts = sorted({count for count in counts if count > 1})
    if not counts:
        return ""
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    kind = "half of the 95 % t interval of the mean" if ci95 else "std"
    return f"± {kind} over {seeds} seeds" + ("" if ci95 else ", n − 1")


def harmonic_mean(base: float, new: float) -> float:
    """H = 2 b n / (b + n), and 0 when both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


@dataclass(frozen=True)
class Cell:
    """One number of a table: the mean over seeds, its spread, and who chose it.

    `std` is None when the number rests on one seed; `rule` is the selection rule; `is_partial`
    says that a run saw only a part of the test images.
    """

    mean: float
    std: float | None = None
    seeds: tuple[int, ...] = ()
    rule: str = ""
    is_partial: bool = False

    @classmethod
    def over(
        cls,
        by_seed: dict[int, float],
        *,
        rule: str = "",
        ci95: bool = False,
        is_partial: bool = False,
    ) -> Cell:
        """Aggregate one value per seed."""
        values = [by_seed[seed] for seed in sorted(by_seed)]
        std = spread(values, ci95=ci95) if len(values) > 1 else None
        return cls(mean(values), std, tuple(sorted(by_seed)), rule, is_partial)

    def text(self, *, is_marked: bool = True) -> str:
        """`71.37 ± 0.49`, with † when test labels chose it, ‡ when test images are missing."""
        shown = f"{self.mean:.2f}" + (f" ± {self.std:.2f}" if self.std is not None else "")
        if not is_marked:
            return shown
        return shown + " †" * (self.rule == "test") + " ‡" * self.is_partial
