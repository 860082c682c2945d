"""Helpers on a whole config."""

from collections.abc import Iterator
from typing import Any

from yacs.config import CfgNode


def leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(full key, value) of every setting of a config."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Drop the nodes of all other trainers, so that the printed config stays short.

    Keeps `TRAINER.NAME` and `TRAINER.<trainer in upper case>`; works in place.
    """
    keep = {"NAME", trainer.upper()}
    for key in [key for key in cfg.TRAINER if key not in keep]:
        cfg.TRAINER.pop(key)


def merge_declared(cfg: CfgNode, declared: CfgNode, prefix: str = "") -> None:
    """Merge what a trainer declares: new keys are added, known ones get another default."""
    for key, value in declared.items():
        if isinstance(value, CfgNode) and isinstance(cfg.get(key), CfgNode):
            merge_declared(cfg[key], value, f"{prefix}{key}.")
        else:
            cfg[key] = value.clone() if isinstance(value, CfgNode) else value


def add_missing(cfg: CfgNode, declared: CfgNode) -> None:
    """Add the keys that a config lacks; what it has stays as it is."""
    for key, value in declared.items():
        if key not in cfg:
            cfg[key] = value
        elif isinstance(value, CfgNode) and isinstance(cfg[key], CfgNode):
            add_missing(cfg[key], value)
