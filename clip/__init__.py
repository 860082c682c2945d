"""CLIP with OpenAI's interface, and one extension point for the methods that tune it."""

from .clip import (
    _MODELS,
    TowerHook,
    _download,
    available_models,
    build_model,
    fetch_weights,
    load,
    load_backbone,
    tokenize,
    weights_path,
)
from .model import CLIP

__all__ = [
    "CLIP",
    "TowerHook",
    "_MODELS",
    "_download",
    "available_models",
    "build_model",
    "fetch_weights",
    "load",
    "load_backbone",
    "tokenize",
    "weights_path",
]
