"""Losses of steps that are still on the device: reading one waits for the device, so a log line
reads those of all steps before it at once."""

import datetime
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dassl.utils import AverageMeter, MetricMeter


@dataclass
class StepLosses:
    """What one step returned.

    Attributes:
        batch_idx: of the step, from 0.
        lr: learning rate after the step, or None.
        summary: name -> value, what ``forward_backward`` returned; numbers once read.
        checked: further losses of the step, of which only matters whether they are finite.
        seconds: that the step took, and that its data took.
    """

    batch_idx: int
    lr: float | None
    summary: Mapping[str, Any] | None
    checked: list[Any] = field(default_factory=list)
    seconds: tuple[float, float] = (0.0, 0.0)

    def nonfinite(self) -> float | None:
        """The first loss, once read, that is infinite or NaN."""
        values = [*self.checked]
        if self.summary and "loss" in self.summary:
            values.append(self.summary["loss"])
        return next((float(value) for value in values if not math.isfinite(value)), None)


class UnreadLosses:
    """The steps since the last reading."""

    def __init__(self) -> None:
        self.steps: list[StepLosses] = []
        self._checked: list[Tensor] = []
        self.batch_time, self.data_time = AverageMeter(), AverageMeter()

    def check_later(self, loss: Tensor) -> None:
        """Remember a loss of the current step; ``read`` brings it back with the others."""
        self._checked.append(loss.detach().float().sum())

    def add(
        self,
        batch_idx: int,
        lr: float | None,
        summary: Mapping[str, Any] | None,
        seconds: tuple[float, float],
    ) -> None:
        """Take what a step returned."""
        self.steps.append(StepLosses(batch_idx, lr, summary, self._checked, seconds))
        self._checked = []

    def take_time(self, step: StepLosses) -> tuple[AverageMeter, AverageMeter]:
        """The meters of batch and data seconds, with those of a step that was read."""
        for meter, value in zip((self.batch_time, self.data_time), step.seconds, strict=True):
            meter.update(value)
        return self.batch_time, self.data_time

    @property
    def is_on_cpu(self) -> bool:
        """Whether reading waits for nothing."""
        return all(tensor.device.type == "cpu" for tensor in self._tensors())

    def read(self) -> Iterator[StepLosses]:
        """All steps in order, as numbers; the device is asked once. Nothing is unread then."""
        tensors = self._tensors()
        values = numbers(tensors)
        known = {id(tensor): value for tensor, value in zip(tensors, values, strict=True)}
        steps, self.steps = self.steps, []
        for step in steps:
            if isinstance(step.summary, Mapping):
                step.summary = {k: known.get(id(v), v) for k, v in step.summary.items()}
            step.checked = [known[id(loss)] for loss in step.checked]
            yield step

    def _tensors(self) -> list[Tensor]:
        found: list[Tensor] = []
        for step in self.steps:
            if isinstance(step.summary, Mapping):
                found += [value for value in step.summary.values() if isinstance(value, Tensor)]
            found += step.checked
        return found


def numbers(tensors: list[Tensor]) -> list[float]:
    """Tensors of one element as numbers; one copy from the device for all."""
    if not tensors:
        return []
    return torch.stack([tensor.detach().reshape(()).double() for tensor in tensors]).tolist()


def logged(losses: Mapping[str, Tensor]) -> dict[str, Any]:
    """Losses as ``forward_backward`` returns them: numbers, or what stays on a GPU until read."""
    return {
        name: value.item() if value.device.type == "cpu" else value.detach()
        for name, value in losses.items()
    }


def progress_text(
    losses: MetricMeter, batch_time: AverageMeter, data_time: AverageMeter, lr: float | None
) -> str:
    """Times, losses and rate of the progress line, as Dassl 0.6 prints them."""
    parts = [
        f"time {batch_time.val:.3f} ({batch_time.avg:.3f})",
        f"data {data_time.val:.3f} ({data_time.avg:.3f})",
        f"{losses}",
        *([] if lr is None else [f"lr {lr:.4e}"]),
    ]
    return " ".join(part for part in parts if part)


def eta_text(batch_time: AverageMeter, batches_left: int) -> str:
    """How long the run still takes."""
    return str(datetime.timedelta(seconds=int(batch_time.avg * batches_left)))
