"""The keys of INPUT that belong to the network: which pixels it was trained on.

``train.py`` leaves them open; whoever builds the network closes them, so that loaders, stored
features and prediction read the same numbers. Without such a network they are ``defaults.py``'s.
"""

import math
from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode

from .tools import unfrozen

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# key of INPUT -> the value that means "nobody gave one"
OPEN: dict[str, Any] = {
    "SIZE": (0, 0),
    "PIXEL_MEAN": [],
    "PIXEL_STD": [],
    "INTERPOLATION": "",
    "RESIZE": "",
}
DEFAULTS: dict[str, Any] = {  # of the engine
    "SIZE": (224, 224),
    "PIXEL_MEAN": list(IMAGENET_MEAN),
    "PIXEL_STD": list(IMAGENET_STD),
    "INTERPOLATION": "bilinear",
    "RESIZE": "shortest",
}
SAME = 1e-6  # two statistics that differ less are the same, rounded


def leave_open(cfg: CfgNode) -> None:
    """Let the network decide every key that nobody sets from now on."""
    for key, value in OPEN.items():
        cfg.INPUT[key] = type(value)(value)


def open_keys(cfg: CfgNode) -> list[str]:
    """The keys of INPUT that nobody has given."""
    if "INPUT" not in cfg:
        return []
    return [key for key, value in OPEN.items() if same(cfg.INPUT.get(key, value), value)]


def in_words(cfg: CfgNode) -> CfgNode:
    """A copy to be read: the open keys say whose value they will get."""
    copy = cfg.clone()
    copy.defrost()
    for key in open_keys(cfg):
        copy.INPUT[key] = "as the network needs"
    return copy


def close(cfg: CfgNode, values: Mapping[str, Any]) -> None:
    """Set the open keys among ``values``; what was given stays. Works on a frozen config, too."""
    with unfrozen(cfg):
        for key in set(open_keys(cfg)) & set(values):
            cfg.INPUT[key] = type(OPEN[key])(values[key])


def close_with_backbone(cfg: CfgNode, values: Mapping[str, Any]) -> None:
    """Set all keys of ``values`` to what the backbone needs.

    Another train.py leaves no key open: its config comes from ``get_cfg_default()`` alone. There, a
    key that has the engine's default is one that nobody has given.

    Raises:
        ValueError: if another value was given; names every such key.
    """
    free = open_keys(cfg) or [key for key, value in DEFAULTS.items() if same(cfg.INPUT[key], value)]
    problems = [
        f"INPUT.{key} is {_shown(cfg.INPUT[key])}, but {cfg.MODEL.BACKBONE.NAME} needs "
        f"{_shown(own)}. Leave INPUT.{key} out: it follows the backbone."
        for key, own in values.items()
        if key not in free and not same(cfg.INPUT[key], own)
    ]
    if problems:
        raise ValueError(" ".join(problems))
    with unfrozen(cfg):
        for key, own in values.items():
            cfg.INPUT[key] = type(OPEN[key])(own)


def same(given: Any, own: Any) -> bool:
    """Whether two values are equal; lists and tuples of numbers up to rounding."""
    if isinstance(given, str) or isinstance(own, str):
        return given == own
    return len(given) == len(own) and all(
        math.isclose(a, b, rel_tol=0.0, abs_tol=SAME) for a, b in zip(given, own)
    )


def _shown(value: Any) -> str:
    return repr(value if isinstance(value, str) else list(value))
