"""Load a CLIP from a file or folder: OpenAI's layout, Hugging Face transformers, open_clip."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from .activation import (
    ACTIVATIONS,
    CONFIG,
    OPEN_CLIP_CONFIG,
    activation_of,
    check_activation,
    guess_activation,
    read_json,
)
from .checkpoint import read_weights
from .layouts import to_openai_layout
from .model import CLIP, build_clip

WEIGHTS_FILES = (  # of a folder, in order of preference
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
PREPROCESSING = "preprocessor_config.json"  # of Hugging Face folders


def is_open_clip_folder(path: Path) -> bool:
    """Whether a folder is a download of an open_clip model, which open_clip reads itself."""
    return (path / OPEN_CLIP_CONFIG).is_file()


def load_file(path: Path, *, precision: str = "fp32", activation: str = "") -> CLIP:
    """Build a CLIP from a weights file, or from a Hugging Face folder that holds one.

    Args:
        path: file or folder.
        precision: "fp32", or "fp16" for OpenAI's mixed storage.
        activation: "quick_gelu" or "gelu"; "" asks the file, see clip/activation.py.

    Raises:
        RuntimeError: if nothing can be read there.
        ValueError: if the weights are not a CLIP, or their activation is not ``activation``.
    """
    check_activation(activation)
    file = weights_in(path) if path.is_dir() else path
    found = read_weights(file)
    told = activation_of(file, found.classes, known_digests=published_activations())
    if activation and told and activation != told:
        raise ValueError(
            f"activation is {activation}, but {file} was trained with {told}. Leave it out: the "
            "file tells."
        )
    name = activation or told or guess_activation(file)
    try:
        weights = to_openai_layout(found.tensors)
        options = _heads(file.parent, weights)
        model = build_clip(weights, precision=precision, activation=ACTIVATIONS[name], **options)
    except (ValueError, RuntimeError) as err:
        reason = " ".join(str(err).split())
        raise type(err)(f"{file}: {reason[:600]}{'...' if len(reason) > 600 else ''}") from err
    statistics = read_json(file.parent / PREPROCESSING)
    if "image_mean" in statistics and "image_std" in statistics:
        model.image_mean = tuple(statistics["image_mean"])
        model.image_std = tuple(statistics["image_std"])
    return model


def weights_in(folder: Path) -> Path:
    """The weights file of a folder.

    Raises:
        RuntimeError: if it holds none; lists what is there.
    """
    for name in WEIGHTS_FILES:
        if (folder / name).is_file():
            return folder / name
    held = sorted(entry.name for entry in folder.iterdir())
    raise RuntimeError(
        f"{folder} holds no weights of a CLIP: expected {', '.join(WEIGHTS_FILES)}, found "
        f"{', '.join(held[:8]) or 'nothing'}. Give the folder of a Hugging Face or open_clip "
        "download, or a weights file."
    )


@lru_cache(maxsize=1)
def published_activations() -> dict[str, str]:
    """SHA-256, or its first eight digits, of published files -> activation, as open_clip lists."""
    try:
        import open_clip
    except ImportError:
        return {}
    known = {}
    for arch, tag in open_clip.list_pretrained():
        entry = open_clip.get_pretrained_cfg(arch, tag)
        name = "quick_gelu" if entry.get("quick_gelu") else "gelu"
        for part in str(entry.get("url", "")).replace("-", "/").split("/"):
            digest = part.partition(".")[0]
            if len(digest) in (8, 64) and set(digest) <= set("0123456789abcdef"):
                known[digest] = name
    return known


def _heads(folder: Path, weights: Mapping[str, Tensor]) -> dict[str, int]:
    """Head counts that a Hugging Face config gives; without one, OpenAI's head width holds."""
    config = read_json(folder / CONFIG)
    towers = {"vision_heads": "vision_config", "transformer_heads": "text_config"}
    found = {
        name: (config.get(key) or {}).get("num_attention_heads") for name, key in towers.items()
    }
    return {name: int(heads) for name, heads in found.items() if heads}
