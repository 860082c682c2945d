"""TaskRes (CVPR 2023): a learned residual on the text classifier.

settings.py  what TRAINER.TaskRes.* may be
method.py    the residual, t' = t + alpha * x
base.py      the base classifier t: regular, or enhanced by a tuned text projection
trainer.py   TaskRes and TaskResBase
"""

from trainers.compat import load_clip_to_cpu  # for files that import it from here

from .base import ProjectionTuning, enhanced_base, read_enhanced_base, regular_base
from .method import TaskResidual
from .settings import TaskResSettings
from .trainer import TaskRes, TaskResBase

__all__ = [
    "ProjectionTuning",
    "TaskRes",
    "TaskResBase",
    "TaskResSettings",
    "TaskResidual",
    "enhanced_base",
    "load_clip_to_cpu",
    "read_enhanced_base",
    "regular_base",
]
