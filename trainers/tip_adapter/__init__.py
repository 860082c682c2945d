"""Tip-Adapter and Tip-Adapter-F (ECCV 2022): a cache of the shots' features beside zero-shot CLIP.

settings.py  what TRAINER.TIPADAPTER.* may be
method.py    the cache model
scores.py    cache scores and the search of their two weights
trainer.py   TipAdapter and TipAdapterF
"""

from .method import Cache
from .settings import TipAdapterSettings
from .trainer import TipAdapter, TipAdapterF

__all__ = ["Cache", "TipAdapter", "TipAdapterF", "TipAdapterSettings"]
