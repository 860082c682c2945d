"""The registry of trainers."""

from typing import TYPE_CHECKING

from yacs.config import CfgNode

from dassl.config import add_missing
from dassl.config.tools import unfrozen
from dassl.utils import Registry

if TYPE_CHECKING:
    from .trainer import TrainerBase

TRAINER_REGISTRY = Registry("TRAINER", is_own=lambda trainer: hasattr(trainer, "default_cfg"))


def build_trainer(cfg: CfgNode) -> "TrainerBase":
    """Build the trainer that TRAINER.NAME names.

    Keys that it declares and the config lacks are added with their defaults: the train.py of
    another repository declares only those that it knows.

    Raises:
        ValueError: if no trainer has that name; the text holds the most similar one.
        ImportError: if the file that defines it cannot be imported.
    """
    TRAINER_REGISTRY.check(cfg.TRAINER.NAME)
    if cfg.VERBOSE:
        print(f"Loading trainer: {cfg.TRAINER.NAME}")
    trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if hasattr(trainer, "default_cfg"):
        with unfrozen(cfg):
            add_missing(cfg, trainer.default_cfg())
    return trainer(cfg)
