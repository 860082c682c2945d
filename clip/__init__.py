"""CLIP with OpenAI's interface, and one extension point for the methods that tune it.

clip.py, download.py, hub.py            load by name, with OpenAI's interface; fetch weights
files.py, layouts.py, activation.py     a weights file or folder of any known layout
checkpoint.py, archive.py, compact.py   read weights without running code; small checkpoints
formats.py                              what a file is that holds no weights
model.py, vision.py, blocks.py          CLIP, its image towers, blocks and the hook of methods
two_towers.py                           what every backbone offers
simple_tokenizer.py, tokens.py          texts as token ids
open_clip_models.py, foreign            backbones of open_clip
hub_tokenizers.py                       the tokenizers that these take from the hub
"""

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
