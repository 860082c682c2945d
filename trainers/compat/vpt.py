"""MaPLe's name for the module of visual prompts."""

from trainers.ivlp import VPT

__all__ = ["VPT"]
