"""Tip-Adapter and Tip-Adapter-F (ECCV 2022): a cache of the shots' features beside zero-shot CLIP.

method.py   the cache model
scores.py   cache scores and the search of their two weights
trainer.py  TipAdapter and TipAdapterF
"""

from .method import Cache
from .trainer import TipAdapter, TipAdapterF

__all__ = ["Cache", "TipAdapter", "TipAdapterF"]
