"""ZS-LP and CLAP (CVPR 2024): a linear probe that is held near the zero-shot prototypes.

settings.py  what TRAINER.CLAP.* and TRAINER.ADAPTER.* may be
method.py    the prototypes, their penalty and its multipliers
trainer.py   CLAP, and ADAPTER, its official name
"""

from .method import Prototypes
from .settings import CLAPSettings
from .trainer import ADAPTER, CLAP

__all__ = ["ADAPTER", "CLAP", "CLAPSettings", "Prototypes"]
