"""The training engine: registry, loops, checkpoints, exact resume.

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
