"""Driving a registered trainer over a case's tensors, and what its run leaves behind."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

import trainers  # noqa: F401
from dassl.config import get_cfg_default, merge_declared
from dassl.config.pixels import leave_open
from dassl.engine import TRAINER_REGISTRY, TrainerX


def trainer_cfg(trainer: type, output: Path | str, settings: Mapping[str, Any]) -> CfgNode:
    """Engine defaults, the trainer's defaults, then key -> value."""
    cfg = get_cfg_default()
    leave_open(cfg)
    merge_declared(cfg, trainer.default_cfg())
    cfg.TRAINER.NAME, cfg.OUTPUT_DIR = trainer.__name__, str(output)
    cfg.TRAIN.PRINT_FREQ = 1000
    for key, value in settings.items():
        value = tuple(value) if isinstance(value, list) else value
        cfg.merge_from_list([key, value])
    cfg.freeze()
    return cfg


def build(name: str, output: Path | str, settings: Mapping[str, Any], *parts, **more) -> TrainerX:
    """The registered trainer over given parts, see ``from_parts``."""
    trainer = TRAINER_REGISTRY.get(name)
    return trainer.from_parts(trainer_cfg(trainer, output, settings), *parts, **more)


def optim_settings(config: dict) -> dict[str, Any]:
    """Keys of OPTIM from what a case's ``config`` says of its optimiser."""
    found = {
        "LR": config.get("lr"),
        "WEIGHT_DECAY": config.get("weight_decay"),
        "EPS": config.get("eps"),
        "MOMENTUM": config.get("momentum"),
        "ETA_MIN": config.get("eta_min"),
    }
    found |= dict(zip(("ADAM_BETA1", "ADAM_BETA2"), config.get("betas", ())))
    settings = {f"OPTIM.{key}": float(value) for key, value in found.items() if value is not None}
    if "optimizer" in config:  # "Adam (coupled L2 weight decay)"
        settings["OPTIM.NAME"] = config["optimizer"].split()[0].lower()
    return settings


def metrics_lines(output: Path | str, key: str) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` that hold a key."""
    lines = Path(output, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if key in line]
