"""The training engine: registry, loops, checkpoints, exact resume."""

from .build import TRAINER_REGISTRY, build_trainer
from .simple_net import SimpleNet
from .trainer import SimpleTrainer, TrainerBase, TrainerX, TrainerXU

__all__ = [
    "TRAINER_REGISTRY",
    "SimpleNet",
    "SimpleTrainer",
    "TrainerBase",
    "TrainerX",
    "TrainerXU",
    "build_trainer",
]
