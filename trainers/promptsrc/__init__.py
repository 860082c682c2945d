"""PromptSRC (ICCV 2023): prompts of both towers that the frozen model regulates.

settings.py  what TRAINER.PROMPTSRC.* may be
method.py    the losses, and the average over epochs
trainer.py   PromptSRC
"""

from .method import GaussianAverage, SelfRegulatedPrompts, gaussian_weights
from .settings import PromptSRCSettings
from .trainer import PromptSRC

__all__ = [
    "GaussianAverage",
    "PromptSRC",
    "PromptSRCSettings",
    "SelfRegulatedPrompts",
    "gaussian_weights",
]
