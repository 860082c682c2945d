"""Configuration: a YACS node with clear errors, the engine keys, and which of them a run reads."""

from .conditions import Condition, idle_settings, never, only_if
from .defaults import get_cfg_default
from .node import Config, UnknownKey
from .ranges import Range, above, at_least, between, check_ranges
from .tools import add_missing, clean_cfg, leaves, merge_declared

__all__ = [
    "Condition",
    "Config",
    "Range",
    "UnknownKey",
    "above",
    "add_missing",
    "at_least",
    "between",
    "check_ranges",
    "clean_cfg",
    "get_cfg_default",
    "idle_settings",
    "leaves",
    "merge_declared",
    "never",
    "only_if",
]
