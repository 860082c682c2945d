"""The training engine: registry, loops, checkpoints, exact resume.

base.py, trainer.py, simple_net.py, build.py  trainers: loops, a default network, registry
parts.py, mixed_precision.py, anomaly.py      given parts; half precision; losses that are NaN
selection.py, scoring.py, predictor.py        what is tested, and what predicts
needed.py                                     files that a run reads beside images
command                                       a command line and its run
settings                                      given against read
updating, steps                               a step's update; training in steps over domains
state, records                                checkpoints, resuming; what a run writes

A name is loaded from its file when it is first asked for: parsing a command line needs no torch.
"""

# ruff: noqa: F401  (the imports tell type checkers what __getattr__ finds)
from typing import TYPE_CHECKING

from dassl.lazy import lazily

if TYPE_CHECKING:
    from .build import TRAINER_REGISTRY, build_trainer
    from .simple_net import SimpleNet
    from .trainer import SimpleTrainer, TrainerBase, TrainerX, TrainerXU

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "build": ("TRAINER_REGISTRY", "build_trainer"),
        "simple_net": ("SimpleNet",),
        "trainer": ("SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU"),
    },
)
