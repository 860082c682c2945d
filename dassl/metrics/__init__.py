"""Accuracy and distances on tensors."""

from .accuracy import compute_accuracy
from .distance import compute_distance_matrix

__all__ = ["compute_accuracy", "compute_distance_matrix"]
