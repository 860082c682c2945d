"""What several methods share.

method.py, settings.py                   the four stages of a method; settings of several
clip_trainer.py, feature_trainer.py      bases: from pixels, from stored features
clip_encoder.py, view_costs.py           CLIP as encoder of the feature bank; what views cost
checkpoints.py, predictor.py, bundle.py  what a run leaves: loaded, predicting, exported
networks.py                              CLIP's towers and toy networks by name
text, testtime, teachers                 prompts; streams of test images; distillation

Importing it adds CLIP's towers and toy networks to the engine's.
"""

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
