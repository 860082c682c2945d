"""Which weights of a step-based run are kept and reported: best checkpoint, SWAD, early stop.

Selection by labels of the source domains only (rule ``source_val``). Parity: tests/golden/swad
(the ``run_*`` cases).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dassl.optim.swad import LossValley, Segment, segment_restarts


@dataclass
class Decision:
    """What to do after an evaluation."""

    save: bool  # keep these raw weights as the best checkpoint
    report: bool  # this record is the one that training-domain validation reports
    stop: bool  # SWAD's valley has ended


class StepSelection:
    """Best checkpoint and SWAD over the evaluations of one run.

    Saved: the LATEST step >= ``model_save`` whose train_out equals the maximum of all evaluations
    so far (those before ``model_save`` count too); ``model_save`` 0 saves nothing. Reported: the
    FIRST maximum.

    Args:
        model_save: first step that may be saved.
        valley: SWAD's rule, or None without SWAD.
        reset: when the running mean of the parameters restarts, one of ``swad.RESET_RULES``.
    """

    def __init__(
        self, *, model_save: int, valley: LossValley | None = None, reset: str = "cumulative"
    ) -> None:
        self.model_save = model_save
        self.valley = valley
        self.reset = reset
        self.segment = Segment([])
        self.best = float("-inf")
        self.saved_step = -1
        self.reported_step = -1

    def after_step(self, params: Iterable[Tensor], step: int) -> None:
        """Add the parameters as they are after the update of ``step`` to the running mean."""
        if self.valley is not None:
            self.segment.add(params, start=step)

    def after_evaluation(self, step: int, *, train_out: float, loss: float) -> Decision:
        """Judge the evaluation after ``step``.

        Args:
            step: the step just made.
            train_out: mean validation accuracy over the source domains.
            loss: mean validation cross-entropy over the source domains.
        """
        report = train_out > self.best
        self.best = max(self.best, train_out)
        save = 0 < self.model_save <= step and train_out == self.best
        if report:
            self.reported_step = step
        if save:
            self.saved_step = step
        return Decision(save, report, self._feed_swad(step, loss))

    def _feed_swad(self, step: int, loss: float) -> bool:
        if self.valley is None:
            return False
        segment = self.segment.copy(device="cpu")  # queues live on the host, the mean does not
        segment.loss = loss
        self.valley.update(segment)
        if not self.valley.dead and segment_restarts(self.reset, step):
            self.segment.count = 0
        return self.valley.dead

    def swad(self) -> Segment | None:
        """The segment that SWAD returns at this moment, or None without SWAD."""
        return None if self.valley is None else self.valley.final()

    def state_dict(self) -> dict:
        """All that going on needs: tensors, numbers, lists."""
        return {
            "best": self.best,
            "saved_step": self.saved_step,
            "reported_step": self.reported_step,
            "segment": self.segment.state_dict(),
            "valley": None if self.valley is None else self.valley.state_dict(),
        }

    def load_state_dict(self, state: dict, device: str | torch.device | None = None) -> None:
        """Continue from ``state_dict()``; the running mean goes to ``device``."""
        self.best = state["best"]
        self.saved_step, self.reported_step = state["saved_step"], state["reported_step"]
        self.segment = Segment.from_state(state["segment"], device)
        if self.valley is not None:
            self.valley.load_state_dict(state["valley"])


def split_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy (percent) and mean cross-entropy of one split.

    Args:
        logits: (N, C), scaled.
        labels: (N,) class indices.
    """
    correct = (logits.argmax(dim=-1) == labels).double().mean()
    # a sum in double over single-precision terms: independent of the batch size of the evaluation
    losses = F.cross_entropy(logits.float(), labels, reduction="none").double()
    return {"accuracy": 100.0 * correct.item(), "loss": losses.mean().item()}


def summarise(source_out: list[dict], target: dict[str, dict]) -> dict[str, float]:
    """Means over domains, in the words of the protocol.

    Args:
        source_out: ``split_metrics`` of the held-out part of every source domain.
        target: the same of the target's parts that were evaluated ("in", "out").

    Returns:
        train_out (percent), tr_outloss, and test_in / test_out (percent) where evaluated. Each
        domain counts equally, whatever its size.
    """
    if not source_out:
        raise ValueError("The source domains have no held-out images: set DATASET.HOLDOUT above 0.")
    summary = {
        "train_out": sum(part["accuracy"] for part in source_out) / len(source_out),
        "tr_outloss": sum(part["loss"] for part in source_out) / len(source_out),
    }
    return summary | {f"test_{name}": part["accuracy"] for name, part in target.items()}
