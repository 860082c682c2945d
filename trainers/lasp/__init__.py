"""LASP and LASP-V (CVPR 2023): a context that hand-written prompts hold, text to text.

settings.py  what TRAINER.LASP.* may be
method.py    the prompts, the text-to-text loss, the correction, the tuned LayerNorms
trainer.py   LASP
"""

from .method import LASPPrompt, lasp_groups
from .settings import LASPSettings
from .trainer import LASP

__all__ = ["LASP", "LASPPrompt", "LASPSettings", "lasp_groups"]
