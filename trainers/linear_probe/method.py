"""Linear probe: L2-regularised logistic regression on frozen image features.

Radford et al., ICML 2021, arXiv 2103.00020, in the few-shot form of CoOp (Zhou et al., IJCV 2022,
``lpclip``). Parity is tested in tests/golden/linear_probe. License of the official code: MIT.
"""

import warnings

import numpy as np
import torch
from torch import Tensor

from clip.model import CLIP
from trainers.common import Method


class LinearClassifier(Method):
    """logits = f W^T + b on raw features f (B, D), not normalised; W (C, D), b (C,) are buffers."""

    weight: Tensor
    bias: Tensor
    per_class = ("weight", "bias")

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_classes, dim))
        self.register_buffer("bias", torch.zeros(num_classes))

    def text_features(self, clip: CLIP) -> Tensor:
        """(C, D): the class weights, not unit rows; no text enters."""
        return self.weight

    def image_features(self, raw_image_features: Tensor) -> Tensor:
        """(B, D) raw, as they are."""
        return raw_image_features

    def logits(self, clip: CLIP | None, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, D), (C, D) -> (B, C)."""
        return torch.addmm(self.bias, image_features.float(), text_features.t())  # f W^T + b

    def exported(self, clip: CLIP) -> dict[str, Tensor]:
        """W and b; a bundle with a bias reads raw features."""
        return {"weight": self.weight, "bias": self.bias, "scale": torch.tensor(1.0)}


def fit_logistic_regression(
    features: np.ndarray,
    labels: np.ndarray,
    c: float,
    *,
    num_classes: int | None = None,
    max_iter: int = 1000,
    tolerance: float = 1e-4,
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise |w|^2 / 2 + c * sum of cross-entropies by L-BFGS; the intercept is free.

    Args:
        features: (n, D).
        labels: (n,) all classes 0 ... C-1 occur.
        c: inverse strength of the regularisation.
        num_classes: C; None: as many as the labels say.

    Returns:
        weight (C, D) and bias (C,), float64. For two classes the binary form's halves.

    Raises:
        ValueError: if a class has no row, or there is only one class.
    """
    _check_labels(labels, num_classes)
    from sklearn.linear_model import LogisticRegression  # slow to import, needed here only

    model = LogisticRegression(solver="lbfgs", C=c, max_iter=max_iter, tol=tolerance)
    with warnings.catch_warnings():
        # one shot per class is meant: the labels are not a regression target
        warnings.filterwarnings("ignore", message="The number of unique classes")
        model.fit(features.astype(np.float64), labels)
    weight, bias = model.coef_, model.intercept_
    if len(weight) == 1:  # two classes share one row, which stands for their difference
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def _check_labels(labels: np.ndarray, num_classes: int | None) -> None:
    count = int(labels.max()) + 1 if num_classes is None else num_classes
    missing = sorted(set(range(count)) - set(labels.tolist()))
    if missing:
        raise ValueError(
            f"There is no training image of {len(missing)} of {count} classes (first: label "
            f"{missing[0]}): a linear probe cannot learn them."
        )
    if count < 2:
        raise ValueError("A linear probe needs at least two classes; this run has one.")


def accuracy(
    classifier: tuple[np.ndarray, np.ndarray], features: np.ndarray, labels: np.ndarray
) -> float:
    """Fraction of rows (n, D) whose class scores highest."""
    weight, bias = classifier
    return float(((features @ weight.T + bias).argmax(axis=1) == labels).mean())
