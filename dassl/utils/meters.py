"""Running averages for progress lines."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_EMA_KEEP = 0.9


class AverageMeter:
    """Last value and running average of one quantity.

    Attributes: `val`, `avg`, `sum`, `count`. With `ema`, avg <- 0.9 avg + 0.1 val from 0.
    """

    def __init__(self, ema: bool = False):
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.val = 0.0
        self.avg = 0.0
        self.sum = 0.0
        self.count = 0

    def update(self, val: float | Tensor, n: int = 1) -> None:
        """Add a value that stands for `n` samples."""
        if isinstance(val, Tensor):
            val = val.item()
        self.val = val
        self.sum += val * n
        self.count += n
        if self.ema:
            self.avg = self.avg * _EMA_KEEP + self.val * (1 - _EMA_KEEP)
        else:
            self.avg = self.sum / self.count


class MetricMeter:
    """Several named `AverageMeter`s; `str()` gives `loss 1.2500 (1.2500) acc 50.0000 (50.0000)`."""

    def __init__(self, delimiter: str = " "):
        self.meters: dict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict: Mapping[str, Any] | None) -> None:
        """Add one value per name; None is ignored."""
        if input_dict is None:
            return
        if not isinstance(input_dict, Mapping):
            raise TypeError(
                "MetricMeter.update() takes a dictionary of name -> number (what forward_backward "
                f"returns), not a {type(input_dict).__name__}."
            )
        for name, value in input_dict.items():
            self.meters[name].update(value)

    def __str__(self) -> str:
        return self.delimiter.join(
            f"{name} {meter.val:.4f} ({meter.avg:.4f})" for name, meter in self.meters.items()
        )
