"""Tune CLIP-like models: `load`, `zero_shot` and `fit` from Python, `vltune` on the command line.

    classifier = vltune.load("output/.../seed1")
    classifier(["a.jpg", "b.jpg"]).names

api.py, quiet.py     classifiers and trainings from Python, inside another program
cli.py               the command, also as ``python -m vltune``

Importing it costs nothing: torch and the engine are loaded by the first call (docs/python_api.md).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Classifier, Prediction, Run, fit, load, zero_shot

__version__ = "0.2.0"
__all__ = ["Classifier", "Prediction", "Run", "fit", "load", "zero_shot"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
