"""Configuration: a YACS node with clear errors, and the defaults of every engine key."""

from .defaults import get_cfg_default
from .node import Config
from .tools import clean_cfg, merge_declared

__all__ = ["Config", "clean_cfg", "get_cfg_default", "merge_declared"]
