"""Measures of kept predictions beside accuracy: calibration, per class, out of distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dassl.evaluation.calibration import nll
from dassl.evaluation.evaluator import macro_f1
from dassl.evaluation.predictions import Predictions, SplitPredictions

BINS = 15  # of equal width, as in Guo et al. (ICML 2017)
RESAMPLES = 2000
IN_PERCENT = ("accuracy", "macro_f1", "ece", "ece_calibrated")


def probabilities(split: SplitPredictions, temperature: float = 1.0) -> np.ndarray:
    """(N, C) softmax of logits / temperature."""
    scores = np.exp((split.logits / temperature).astype(np.float64))  # the largest logit is 0
    return scores / scores.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Bin:
    """A bin of the reliability diagram; confidence and accuracy (0 to 1) are means over it."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def reliability(split: SplitPredictions, temperature: float = 1.0) -> list[Bin]:
    """The bins that hold images, by the probability of the predicted class."""
    confidence = probabilities(split, temperature).max(axis=1)
    correct = split.predicted == split.labels
    places = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        Bin(
            low=place / BINS,
            high=(place + 1) / BINS,
            images=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(correct[inside].mean()),
        )
        for place in range(BINS)
        if (inside := places == place).any()
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """ECE in percent: the mean of |accuracy - confidence| over images, bin by bin."""
    total = sum(one.images for one in bins)
    return 100 * sum(one.images * abs(one.accuracy - one.confidence) for one in bins) / total


def brier(split: SplitPredictions, temperature: float = 1.0) -> float:
    """Mean over images of the squared distance of probabilities from the truth; 0 to 2."""
    guesses = probabilities(split, temperature)
    guesses[np.arange(len(split)), split.labels] -= 1
    return float(np.mean((guesses**2).sum(axis=1)))


def measures(predictions: Predictions, name: str = "test") -> dict[str, float]:
    """The numbers of one split; those in IN_PERCENT in percent, NLL in nats.

    Those named `..._calibrated` are after division by the temperature, where there is one.

    Raises:
        ValueError: the run kept no predictions of this split.
    """
    if name not in predictions.splits:
        known = ", ".join(predictions.splits)
        raise ValueError(f"The run kept no predictions of the split {name}. Known: {known}.")
    split, temperature = predictions.splits[name], predictions.temperature
    found = {
        "accuracy": 100 * float(np.mean(split.predicted == split.labels)),
        "macro_f1": 100 * macro_f1(split.labels, split.predicted),
        "ece": expected_calibration_error(reliability(split)),
        "brier": brier(split),
        "nll": nll(split.logits, split.labels),
    }
    if temperature is not None:
        found |= {
            "temperature": temperature,
            "ece_calibrated": expected_calibration_error(reliability(split, temperature)),
            "brier_calibrated": brier(split, temperature),
            "nll_calibrated": nll(split.logits / temperature, split.labels),
        }
    return found


def confusion(split: SplitPredictions) -> np.ndarray:
    """(C, C) counts: rows are true classes, columns predicted ones."""
    from sklearn.metrics import confusion_matrix  # slow to import

    return confusion_matrix(split.labels, split.predicted, labels=range(split.logits.shape[1]))


def per_class(predictions: Predictions, name: str = "test") -> list[dict]:
    """Class, images, correct ones and accuracy (percent) of the classes that have images."""
    counts = confusion(predictions.splits[name])
    totals, corrects = counts.sum(axis=1), counts.diagonal()
    return [
        {
            "class": predictions.classnames[label],
            "images": int(totals[label]),
            "correct": int(corrects[label]),
            "accuracy": 100 * float(corrects[label] / totals[label]),
        }
        for label in np.flatnonzero(totals).tolist()
    ]


def confident_mistakes(predictions: Predictions, name: str = "test", count: int = 20) -> list[dict]:
    """The wrong answers of highest probability (percent, calibrated where that is possible)."""
    split = predictions.splits[name]
    confidence = probabilities(split, predictions.temperature or 1.0).max(axis=1)
    wrong = np.flatnonzero(split.predicted != split.labels)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return [
        {
            "image": str(split.images[place]),
            "truth": predictions.classnames[split.labels[place]],
            "predicted": predictions.classnames[split.predicted[place]],
            "probability": 100 * float(confidence[place]),
        }
        for place in order
    ]


def against(inside: SplitPredictions, outside: SplitPredictions) -> dict[str, float]:
    """How well the largest probability tells a run's images from those of another dataset.

    Returns:
        AUROC, and FPR95: the share of foreign images above the threshold that 95 % of the run's
        own images pass; both in percent (Hendrycks and Gimpel, ICLR 2017).
    """
    from sklearn.metrics import roc_auc_score, roc_curve  # slow to import

    scores = [probabilities(split).max(axis=1) for split in (inside, outside)]
    truth = np.repeat([1, 0], [len(inside), len(outside)])
    joined = np.concatenate(scores)
    false, true, _ = roc_curve(truth, joined, drop_intermediate=False)
    return {
        "auroc": 100 * float(roc_auc_score(truth, joined)),
        "fpr95": 100 * float(false[np.argmax(true >= 0.95)]),
    }


def bootstrap_interval(split: SplitPredictions, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the accuracy (percent) over resampled test images.

    The number of correct ones among N images drawn with replacement is binomial.
    """
    share = float(np.mean(split.predicted == split.labels))
    drawn = np.random.default_rng(seed).binomial(len(split), share, RESAMPLES) / len(split)
    low, high = np.percentile(100 * drawn, [2.5, 97.5])
    return float(low), float(high)
