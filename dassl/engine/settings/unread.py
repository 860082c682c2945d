"""Settings that somebody gave and that the run does not read."""

import argparse
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from yacs.config import CfgNode

from dassl.config.files import CONFIGS, read_layers
from dassl.config.tools import leaves, value_of
from dassl.data.datasets import DATASET_REGISTRY

from .flag_checks import given_files, keys_on_the_command_line

if TYPE_CHECKING:
    from ..base import TrainerBase

logger = logging.getLogger(__name__)


def warn_of_idle_settings(
    args: argparse.Namespace, cfg: CfgNode, trainer: "type[TrainerBase]"
) -> None:
    """Name every given key that changes nothing in this run, and say why."""
    idle = idle_settings_of(cfg, trainer)
    for key in dict.fromkeys(given_keys(args)):
        if key in idle:
            logger.warning("%s %r has no effect: %s.", key, value_of(cfg, key), idle[key])


def idle_settings_of(cfg: CfgNode, trainer: "type[TrainerBase]") -> dict[str, str]:
    """Key -> why it changes nothing, by trainer and dataset."""
    idle = trainer.idle_settings(cfg)
    if cfg.DATASET.NAME in DATASET_REGISTRY:
        idle = {**DATASET_REGISTRY.get(cfg.DATASET.NAME).idle_settings(cfg), **idle}
    return idle


def given_keys(args: argparse.Namespace) -> Iterator[str]:
    """Keys that the command line states, in pairs, flags or files of one's own.

    The recipes and dataset configs of this package state settings for many runs at once: what one
    of them does not read there is nobody's wish.
    """
    yield from keys_on_the_command_line(args)
    for path in given_files(args):
        for layer in read_layers(path):
            if not layer.file.resolve().is_relative_to(CONFIGS):
                yield from dict(leaves(layer.content))
