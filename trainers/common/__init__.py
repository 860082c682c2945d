"""What several methods share. Importing it adds CLIP's towers and toy networks to the engine's."""

from . import networks
from .clip_trainer import ClipTrainer
from .feature_trainer import FeatureTrainer
from .method import Method, cross_entropy_losses, scaled_cosines

__all__ = [
    "ClipTrainer",
    "FeatureTrainer",
    "Method",
    "cross_entropy_losses",
    "networks",
    "scaled_cosines",
]
