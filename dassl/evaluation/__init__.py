"""Evaluators by name.

build.py, evaluator.py    the registry; accuracy, macro F1, confusion matrix
predictions.py            scores, labels and images of each split
calibration.py            temperature scaling
"""

from .build import EVALUATOR_REGISTRY, build_evaluator
from .evaluator import Classification, EvaluatorBase

__all__ = ["EVALUATOR_REGISTRY", "Classification", "EvaluatorBase", "build_evaluator"]
