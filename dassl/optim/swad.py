"""SWAD: stochastic weight averaging densely, with the loss-valley rule that picks its range.

Paper: Cha et al., "SWAD: Domain Generalization by Seeking Flat Minima", NeurIPS 2021 (arXiv
2102.08604). The official code (khanrc/swad) and the variant in val-iisc/VL2V-ADiP share the queue
logic below; they differ in when a segment restarts (``RESET_RULES``). Parity: tests/golden/swad.

Everything here works on flat lists of tensors, never on modules: only what is trained is averaged.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

RESET_RULES = ("cumulative", "every_checkpoint")
CUMULATIVE_PERIOD = 1000  # steps between restarts of the cumulative rule ...
CUMULATIVE_FROM = 2500  # ... none of which happens up to this step


def segment_restarts(rule: str, step: int) -> bool:
    """Whether the running mean restarts after the evaluation at ``step``.

    ``every_checkpoint`` is the published SWAD. ``cumulative`` is the default of the VL2V-ADiP code:
    one mean since step 0 until step 3000, then a new one every thousand steps.
    """
    if rule == "every_checkpoint":
        return True
    return step % CUMULATIVE_PERIOD == 0 and step > CUMULATIVE_FROM


@dataclass
class Segment:
    """The mean of the parameters over some steps, and the validation loss at its end."""

    params: list[Tensor]
    start: int = -1
    end: int = -1
    count: int = 0
    loss: float = float("nan")

    @torch.no_grad()
    def add(self, params: Iterable[Tensor], *, start: int, end: int | None = None) -> None:
        """M <- M + (x - M) / (N + 1), in place; with N = 0 what M held before is discarded.

        Args:
            params: tensors of the shapes of ``self.params``, on the same devices.
            start: first step of the new item; kept when it is the first one.
            end: last step of the new item (default: ``start``).
        """
        params = [param.detach() for param in params]
        if self.count == 0:
            if self.params:
                for mean, param in zip(self.params, params, strict=True):
                    mean.copy_(param)
            else:
                self.params = [param.clone() for param in params]
            self.start = start
        else:
            torch._foreach_lerp_(self.params, params, 1.0 / (self.count + 1))
        self.count += 1
        self.end = start if end is None else end

    def add_segment(self, other: "Segment") -> None:
        """``add`` the mean of another segment, as one item over its steps."""
        self.add(other.params, start=other.start, end=other.end)

    def copy(self, *, device: str | torch.device | None = None) -> "Segment":
        """An independent copy of the tensors, moved to ``device`` if one is given."""
        params = [param.to(device or param.device, copy=True) for param in self.params]
        return Segment(params, self.start, self.end, self.count, self.loss)

    def state_dict(self) -> dict:
        """Tensors and numbers only."""
        fields = {"start": self.start, "end": self.end, "count": self.count, "loss": self.loss}
        return {"params": list(self.params), **fields}

    @classmethod
    def from_state(cls, state: dict, device: str | torch.device | None = None) -> "Segment":
        """Rebuild a segment from ``state_dict()``."""
        return cls(**state).copy(device=device)


@dataclass
class LossValley:
    """Choose which segments to average from the validation losses at the evaluations.

    A window of ``n_converge`` losses whose first minimum is its oldest one marks convergence and
    sets the threshold, mean * (1 + tolerance). From then on the segment ``n_tolerance`` evaluations
    back is averaged as long as some loss of that window stays below the threshold.

    Every segment is equally heavy, whatever its length. Deliberate oddities of the official code
    that published numbers depend on: the segment at which the back-fill stops is skipped, and the
    segment of convergence enters twice in the usual 3/6 setting.

    Args:
        n_converge, n_tolerance: window lengths, in evaluations.
        tolerance: the margin above the mean loss, a fraction.
    """

    n_converge: int = 3
    n_tolerance: int = 6
    tolerance: float = 0.3
    history: deque = field(init=False)
    converge_step: int | None = field(default=None, init=False)
    threshold: float = field(default=float("nan"), init=False)
    mean: Segment | None = field(default=None, init=False)
    dead: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if min(self.n_converge, self.n_tolerance) < 1:
            raise ValueError(
                f"SWAD.N_CONVERGE and SWAD.N_TOLERANCE are {self.n_converge} and "
                f"{self.n_tolerance}; both must be at least 1."
            )
        self.history = deque(maxlen=max(self.n_converge, self.n_tolerance))

    def update(self, segment: Segment) -> None:
        """Take the segment of the newest evaluation (it must not change afterwards)."""
        if self.dead:
            return
        self.history.append(segment)
        if self.converge_step is None or self.mean is None:
            self._look_for_convergence()
            return
        window = self._tail(self.n_tolerance)
        if window[0].end < self.converge_step:
            return
        if min(item.loss for item in window) > self.threshold:
            self.dead = True
            return
        self.mean.add_segment(window[0])

    def final(self) -> Segment:
        """The averaged parameters; the last segment itself when the loss never converged."""
        if self.converge_step is None or self.mean is None:
            if not self.history:
                raise RuntimeError("SWAD has seen no evaluation yet: there is nothing to average.")
            return self.history[-1]
        result = self.mean.copy()
        if self.dead:
            return result
        window = self._tail(self.n_tolerance)[1:]
        while window and min(item.loss for item in window) <= self.threshold:
            item = window.pop(0)
            result.add(item.params, start=item.end)
        return result

    def _tail(self, length: int) -> list[Segment]:
        return list(self.history)[-length:]

    def _look_for_convergence(self) -> None:
        window = self._tail(self.n_converge)
        losses = [item.loss for item in window]
        if len(window) < self.n_converge or losses.index(min(losses)) != 0:
            return
        self.converge_step = window[0].end
        self.threshold = sum(losses) / len(losses) * (1.0 + self.tolerance)
        self.mean = mean = Segment(window[0].copy().params)
        for item in self._backfill(window):
            mean.add_segment(item)

    def _backfill(self, window: list[Segment]) -> list[Segment]:
        """Segments that enter at convergence."""
        if self.n_tolerance <= self.n_converge:
            return window[1 : 1 + self.n_converge - self.n_tolerance]
        earlier = self._tail(self.n_tolerance)[: self.n_tolerance - self.n_converge + 1]
        above = [i for i, item in enumerate(earlier) if item.loss > self.threshold]
        first = above[-1] + 1 if above else 0
        return earlier[first + 1 :]  # parity: the first segment below the threshold is skipped

    def state_dict(self) -> dict:
        """Queues, running mean and flags as tensors, numbers and lists."""
        return {
            "history": [item.state_dict() for item in self.history],
            "converge_step": self.converge_step,
            "threshold": self.threshold,
            "mean": None if self.mean is None else self.mean.state_dict(),
            "dead": self.dead,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from ``state_dict()``."""
        self.history.clear()
        self.history.extend(Segment.from_state(item) for item in state["history"])
        self.converge_step, self.threshold = state["converge_step"], state["threshold"]
        self.mean = None if state["mean"] is None else Segment.from_state(state["mean"])
        self.dead = state["dead"]
