"""The registry of trainers."""

from typing import TYPE_CHECKING

from yacs.config import CfgNode

from dassl.utils import Registry, check_availability

if TYPE_CHECKING:
    from .trainer import TrainerBase

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: CfgNode) -> "TrainerBase":
    """Build the trainer that TRAINER.NAME names.

    Raises:
        ValueError: if no trainer has that name; the text holds the most similar one.
    """
    check_availability(cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names())
    if cfg.VERBOSE:
        print(f"Loading trainer: {cfg.TRAINER.NAME}")
    return TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg)
