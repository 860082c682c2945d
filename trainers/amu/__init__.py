"""AMU-Tuning (CVPR 2024): an auxiliary logit bias, weighted by CLIP's uncertainty.

method.py       s = s0 + alpha * r * z
uncertainty.py  the factor r
auxiliary.py    auxiliary encoders by name
trainer.py      AMU
"""

from .method import AuxiliaryBias, average_views, initial_weight
from .trainer import AMU

__all__ = ["AMU", "AuxiliaryBias", "average_views", "initial_weight"]
