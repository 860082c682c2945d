"""Configuration: a YACS node with clear errors, and the defaults of every engine key."""

from .defaults import get_cfg_default
from .node import Config, UnknownKey
from .tools import clean_cfg

__all__ = ["Config", "UnknownKey", "clean_cfg", "get_cfg_default"]
