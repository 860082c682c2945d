"""AMU-Tuning (CVPR 2024): an auxiliary logit bias, weighted by CLIP's uncertainty.

settings.py     what TRAINER.AMU.* may be
method.py       s = s0 + alpha * r * z
uncertainty.py  the factor r
auxiliary.py    auxiliary encoders by name
trainer.py      AMU
"""

from .method import AuxiliaryBias, average_views, initial_weight
from .settings import AMUSettings
from .trainer import AMU

__all__ = ["AMU", "AMUSettings", "AuxiliaryBias", "average_views", "initial_weight"]
