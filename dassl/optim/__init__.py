"""Optimisers and learning-rate schedules by name.

optimizer.py, radam.py  optimisers
lr_scheduler.py         schedules with an optional warm-up
swad.py                 averages of weights in a loss valley
"""

from .lr_scheduler import build_lr_scheduler
from .optimizer import build_optimizer
from .radam import RAdam

__all__ = ["RAdam", "build_lr_scheduler", "build_optimizer"]
