"""Configuration: a YACS node with clear errors, and the defaults of every engine key."""

from .defaults import get_cfg_default
from .node import Config
from .ranges import Range, above, at_least, between, check_ranges
from .tools import clean_cfg, leaves

__all__ = [
    "Config",
    "Range",
    "above",
    "at_least",
    "between",
    "check_ranges",
    "clean_cfg",
    "get_cfg_default",
    "leaves",
]
