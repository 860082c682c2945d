"""TPT: test-time prompt tuning.

Shu, Nie, Huang, Yu, Goldstein, Anandkumar, Xiao: Test-Time Prompt Tuning for Zero-Shot
Generalization in Vision-Language Models, NeurIPS 2022, arXiv 2209.07511. Parity is tested in
tests/golden/tpt. License of the official code: MIT.

settings.py  what TRAINER.TPT.* may be
method.py    the prompts, the loss, the steps on one image
start.py     learned contexts to start from
trainer.py   TPT
"""

from .method import Adapter, Episode, TestTimePrompt, average_entropy, view_entropies
from .settings import TPTSettings
from .start import ConditionalStart, read_context
from .trainer import TPT

__all__ = [
    "TPT",
    "Adapter",
    "ConditionalStart",
    "Episode",
    "TPTSettings",
    "TestTimePrompt",
    "average_entropy",
    "read_context",
    "view_entropies",
]
