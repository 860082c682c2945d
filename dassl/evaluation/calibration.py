"""Temperature scaling (Guo et al., ICML 2017, arXiv 1706.04599, section 4.2)."""

import numpy as np

RANGE = (0.05, 20.0)  # of temperatures
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
