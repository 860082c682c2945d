"""The official name of CLAP's module."""

from trainers.clap import ADAPTER

__all__ = ["ADAPTER"]
