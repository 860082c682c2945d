"""Temperature scaling (Guo et al., ICML 2017, arXiv 1706.04599, section 4.2).

A ``Calibration`` is what ``results.json`` and checkpoints hold: ``temperature`` (None where there
is none), and ``images``, the number of validation images that it was fitted on, or ``reason``, why
there is none.
"""

from typing import Any

import numpy as np

Calibration = dict[str, Any]

RANGE = (0.05, 20.0)  # of temperatures
OTHER_CLASSES = "the temperature of the training belongs to its own classes"
INNER_RANGE = (0.06, 17.0)  # beyond it the images set no bound, as where all of a few are right


def nll(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood of (N,) labels under the softmax of (N, C) logits, in nats."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    norms = np.log(np.exp(scores).sum(axis=1))
    return float(np.mean(norms - scores[np.arange(len(labels)), labels]))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T in 0.05 .. 20 with the smallest `nll(logits / T, labels)`.

    Args:
        logits: (N, C) scores before softmax.
        labels: (N,).
    """
    from scipy.optimize import minimize_scalar  # slow to import

    def loss(log_temperature: float) -> float:
        return nll(logits / np.exp(log_temperature), labels)

    found = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded")
    return float(np.exp(found.x))


def no_temperature(reason: str) -> Calibration:
    """The calibration of a classifier without a temperature."""
    return {"temperature": None, "reason": reason}


def taken_calibration(found: object) -> Calibration:
    """The calibration that a checkpoint or the results of a run hold, if they hold one."""
    if not isinstance(found, dict):
        return no_temperature("the run that trained the model has kept none")
    temperature = found.get("temperature")
    if isinstance(temperature, float) and temperature > 0:
        return found
    return no_temperature(str(found.get("reason", "its training has fitted none")))


def in_words(calibration: Calibration) -> str:
    """One sentence about the probabilities that a calibration gives."""
    if temperature := calibration["temperature"]:
        images = calibration.get("images", 0)
        return f"Calibrated: temperature {temperature:.3g}, fitted on {images} validation images."
    return f"Not calibrated: {calibration['reason']}."
