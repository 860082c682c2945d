"""Configuration: a YACS node with clear errors, the engine keys, and which of them a run reads.

node.py, defaults.py, pixels.py    the YACS node and the engine's keys
declared.py, ranges.py             a method's settings: one field per key, what is allowed
conditions.py, settings.py         which keys a run reads, and which make its numbers
files.py, yaml_files.py            config files, and what they are based on
recipes.py, official.py            recipes of the package, names of the official repositories
own_data.py, name_lists.py         datasets of one's own, lists of class names
tools.py                           helpers on a whole config
"""

from .conditions import Condition, idle_settings, never, only_if
from .declared import Settings, check_settings, declared_cfg, describe_settings, setting
from .defaults import get_cfg_default
from .node import Config, UnknownKey
from .ranges import (
    LEARNING_RATE,
    Range,
    above,
    at_least,
    between,
    check_ranges,
    check_value,
    one_of,
)
from .tools import add_missing, changed, clean_cfg, leaves, merge_declared

__all__ = [
    "LEARNING_RATE",
    "Condition",
    "Config",
    "Range",
    "Settings",
    "UnknownKey",
    "above",
    "add_missing",
    "at_least",
    "between",
    "changed",
    "check_ranges",
    "check_settings",
    "check_value",
    "clean_cfg",
    "declared_cfg",
    "describe_settings",
    "get_cfg_default",
    "idle_settings",
    "leaves",
    "merge_declared",
    "never",
    "one_of",
    "only_if",
    "setting",
]
