"""Classification accuracy, macro F1, per-class accuracy and confusion matrix.

Parity: tests/golden/engine (evaluator).
"""

import logging
import os
from abc import ABC, abstractmethod
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.utils import ranks, write_tensors

from .build import EVALUATOR_REGISTRY

logger = logging.getLogger(__name__)


class EvaluatorBase(ABC):
    """`reset()`, then `process()` per batch, then `evaluate()`."""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg

    @abstractmethod
    def reset(self) -> None:
        """Forget all batches."""

    @abstractmethod
    def process(self, mo: Tensor, gt: Tensor) -> None:
        """Add a batch of model outputs and labels."""

    def gather(self) -> None:
        """Add what the other processes of this run have processed; nothing where there is one."""
        if ranks.size() > 1:
            raise TypeError(
                f"The evaluator {type(self).__name__} has no gather(), so that several processes "
                "cannot share an evaluation. Start one (without torchrun), or add it."
            )

    @abstractmethod
    def evaluate(self) -> OrderedDict:
        """Return an ordered mapping; the first value is the one that models are compared by."""


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error rate and macro F1, in percent.

    A prediction is the first of the largest scores. Macro F1 is the mean over the labels that
    occur in the truth. `TEST.PER_CLASS_RESULT` and `TEST.COMPUTE_CMAT` add their parts.
    """

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **kwargs):
        super().__init__(cfg)
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT needs lab2cname (label -> class name).")
        self._lab2cname = lab2cname or {}
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._total = 0
        self._y_true: list[Tensor] = []
        self._y_pred: list[Tensor] = []
        self._bad_rows: Tensor | int = 0  # whose largest score is NaN or infinite
        self._flat_rows: Tensor | int = 0  # whose scores are all the same

    def process(self, mo: Tensor, gt: Tensor) -> None:
        """Add a batch; nothing is copied to the CPU before `evaluate`.

        Args:
            mo: (B, C) scores.
            gt: (B,) labels.
        """
        if mo.shape[0] != gt.shape[0]:
            raise ValueError(f"{mo.shape[0]} predictions for {gt.shape[0]} labels.")
        self._y_true.append(gt.detach())
        self._y_pred.append(mo.detach().argmax(dim=1))
        largest = mo.detach().amax(dim=1)
        self._bad_rows = self._bad_rows + (~largest.isfinite()).sum()
        if mo.shape[1] > 1:
            self._flat_rows = self._flat_rows + (largest == mo.detach().amin(dim=1)).sum()
        self._total += int(gt.shape[0])

    def gather(self) -> None:
        """Count every image of every process once."""
        if ranks.size() == 1:
            return
        rows = ranks.gather((_gather(self._y_true), _gather(self._y_pred)))
        self._y_true = [torch.from_numpy(truth) for truth, _ in rows]
        self._y_pred = [torch.from_numpy(predicted) for _, predicted in rows]
        self._bad_rows = sum(ranks.gather(int(self._bad_rows)))
        self._flat_rows = sum(ranks.gather(int(self._flat_rows)))
        self._total = sum(map(len, self._y_true))

    def evaluate(self) -> OrderedDict:
        """Print and return the results over all batches since `reset`.

        Raises:
            FloatingPointError: if scores are NaN or infinite, so that nothing was predicted.
        """
        if not self._y_true:
            raise ValueError(
                "Nothing to evaluate: the split is empty. Check the dataset and TEST.SPLIT."
            )
        truth = _gather(self._y_true)
        predicted = _gather(self._y_pred)
        if int(self._bad_rows):
            raise FloatingPointError(
                f"The scores of {int(self._bad_rows)} of {len(truth)} images are NaN or infinite: "
                "their accuracy would be that of the first class. Look for infinite or NaN values "
                "in the weights of the model and of its backbone, or evaluate in fp32 "
                "(TRAINER.<name>.PREC fp32)."
            )
        if int(self._flat_rows) == len(truth):
            logger.warning(
                "Every image has the same score for all classes: the accuracy is that of the first "
                "class. Did the training diverge (OPTIM.LR), or is nothing trained?"
            )
        correct = int((truth == predicted).sum())
        accuracy = 100.0 * correct / len(truth)
        results = OrderedDict(
            accuracy=accuracy,
            error_rate=100.0 - accuracy,
            macro_f1=100.0 * macro_f1(truth, predicted),
        )
        print(
            "=> result\n"
            f"* total: {len(truth):,}\n"
            f"* correct: {correct:,}\n"
            f"* accuracy: {accuracy:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {results['macro_f1']:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._per_class(truth, predicted)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion_matrix(truth, predicted)
        return results

    def _per_class(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        """Print a line per label of the truth; return the mean of their accuracies."""
        labels, rows = np.unique(truth, return_inverse=True)
        totals = np.bincount(rows)
        corrects = np.bincount(rows, weights=truth == predicted).astype(int)
        accuracies = 100.0 * corrects / totals
        print("=> per-class result")
        for label, total, correct, accuracy in zip(labels, totals, corrects, accuracies):
            name = self._lab2cname.get(int(label), "unknown")
            print(
                f"* class: {label} ({name})\ttotal: {total:,}\tcorrect: {correct:,}"
                f"\tacc: {accuracy:.1f}%"
            )
        mean = float(np.mean(accuracies))
        print(f"* average: {mean:.1f}%")
        return mean

    def _save_confusion_matrix(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Save the matrix as a float64 tensor, which loads with `weights_only=True`."""
        if not ranks.is_writer():
            return
        path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        write_tensors(torch.from_numpy(confusion_matrix(truth, predicted)), path)
        print(f"Confusion matrix is saved to {path}")


def _gather(batches: list[Tensor]) -> np.ndarray:
    none = [torch.zeros(0, dtype=torch.int64)]
    return torch.cat([torch.as_tensor(b).reshape(-1) for b in batches] or none).cpu().numpy()


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean F1, 2 TP / (true + predicted), over the labels of the truth; 0 to 1."""
    labels, rows = np.unique(truth, return_inverse=True)
    true_counts = np.bincount(rows)
    hits = np.bincount(rows, weights=truth == predicted)
    places = np.searchsorted(labels, predicted).clip(max=len(labels) - 1)
    known = labels[places] == predicted
    predicted_counts = np.bincount(places[known], minlength=len(labels))
    return float(np.mean(2 * hits / (true_counts + predicted_counts)))


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the (L, L) matrix of row fractions over the L labels of truth and prediction.

    Rows are true labels, ascending; a label that is only predicted has a row of zeros.
    """
    labels = np.union1d(truth, predicted)
    size = len(labels)
    cells = np.searchsorted(labels, truth) * size + np.searchsorted(labels, predicted)
    counts = np.bincount(cells, minlength=size * size).reshape(size, size).astype(np.float64)
    return counts / counts.sum(axis=1, keepdims=True).clip(min=1)
