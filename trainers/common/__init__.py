"""What several methods share."""

from .clip_trainer import ClipTrainer
from .feature_trainer import FeatureTrainer
from .method import Method, cross_entropy_losses, scaled_cosines

__all__ = [
    "ClipTrainer",
    "FeatureTrainer",
    "Method",
    "cross_entropy_losses",
    "scaled_cosines",
]
