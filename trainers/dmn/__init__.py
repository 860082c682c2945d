"""DMN (CVPR 2024): dual memory networks.

settings.py  what TRAINER.DMN.* may be
method.py    the three classifiers and their weighted sum
memory.py    the dynamic memory: write rule and replay of known features
readout.py   attention read-out of a memory
fusion.py    weights of the classifiers and their search
shots.py     labelled shots by class, and the official draw
trainer.py   DMN
"""

from .method import DualMemory
from .settings import DMNSettings
from .trainer import DMN, REPLAY

__all__ = ["DMN", "DMNSettings", "REPLAY", "DualMemory"]
