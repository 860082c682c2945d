"""Accuracy and distances on tensors.

accuracy.py  top-k accuracy
distance.py  distance matrices
"""

from .accuracy import compute_accuracy
from .distance import compute_distance_matrix

__all__ = ["compute_accuracy", "compute_distance_matrix"]
