"""The official name of MMA's module."""

from trainers.mma import MultiModalAdapter

__all__ = ["MultiModalAdapter"]
