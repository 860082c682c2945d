"""VL2V-ADiP (CVPR 2024): align a student to a vision-language teacher, then distill it.

method.py   the losses: of both stages, and of the naive distillation baselines
trainer.py  settings, VL2VADiP and its stages, VL2VSD, NaiveKD
"""

from .method import VL2VObjective, distillation_losses, kd_losses
from .trainer import VL2VSD, NaiveKD, VL2VADiP, VL2VAlign, VL2VDistill, VL2VSettings

__all__ = [
    "VL2VSD",
    "NaiveKD",
    "VL2VADiP",
    "VL2VAlign",
    "VL2VDistill",
    "VL2VObjective",
    "VL2VSettings",
    "distillation_losses",
    "kd_losses",
]
