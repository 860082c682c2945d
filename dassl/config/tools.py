"""Helpers on a whole config."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from yacs.config import CfgNode


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(full key, value) of every setting of a nested config."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a key by its full name."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def set_value(cfg: CfgNode, key: str, value: Any) -> None:
    """Set a key by its full name; a list becomes a tuple where the key holds one."""
    section, _, last = key.rpartition(".")
    node = value_of(cfg, section) if section else cfg
    node[last] = tuple(value) if isinstance(node[last], tuple) else value


def changed(cfg: CfgNode, values: Mapping[str, Any]) -> CfgNode:
    """A frozen copy with other values of some keys, by their full names."""
    copy = cfg.clone()
    with unfrozen(copy):
        for key, value in values.items():
            set_value(copy, key, value)
    copy.freeze()
    return copy


@contextmanager
def unfrozen(cfg: CfgNode) -> Iterator[None]:
    """Let a config be changed for a while; it is frozen again if it was."""
    was_frozen = cfg.is_frozen()
    cfg.defrost()
    try:
        yield
    finally:
        if was_frozen:
            cfg.freeze()


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
