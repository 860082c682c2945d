"""Load a CLIP from a file or folder: OpenAI's layout, Hugging Face transformers, open_clip."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from .activation import (
    ACTIVATIONS,
    CONFIG,
    OPEN_CLIP_CONFIG,
    activation_of,
    check_activation,
    guess_activation,
    read_json,
    section,
)
from .checkpoint import INDEX, read_weights
from .layouts import BY_ARCHITECTURE, check_numbers, to_openai_layout
from .model import CLIP, build_clip

WEIGHTS_FILES = (  # of a folder, in order of preference
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    f"model.safetensors{INDEX}",  # of weights in several files
    f"pytorch_model.bin{INDEX}",
)
OPEN_CLIP_FIRST = sorted(WEIGHTS_FILES, key=lambda name: not name.startswith("open_clip"))
VOCABULARY = 49408  # tokens of CLIP's byte pairs
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
    whole = re.sub(r"-\d{5}-of-\d{5}(\.\w+)$", rf"\1{INDEX}", file.name)
    if whole != file.name:
        raise ValueError(
            f"{file} is one of several parts of a model. Give {file.with_name(whole)}."
        )
    try:
        check_numbers(found.tensors)
        weights = to_openai_layout(found.tensors)
        _check_is_clip(weights)
    except ValueError as err:
        raise _named(file, err) from err
    told = activation_of(file, found.classes, known_digests=published_activations())
    if activation and told and activation != told:
        raise ValueError(
            f"activation is {activation}, but {file} was trained with {told}. Leave it out: the "
            "file tells."
        )
    name = activation or told or guess_activation(file)
    try:
        options = _heads(file.parent)
        model = build_clip(weights, precision=precision, activation=ACTIVATIONS[name], **options)
    except (ValueError, RuntimeError) as err:
        raise _named(file, err) from err
    statistics = read_json(file.parent / PREPROCESSING)
    if "image_mean" in statistics and "image_std" in statistics:
        model.image_mean = _channels(file.parent, statistics, "image_mean")
        model.image_std = _channels(file.parent, statistics, "image_std")
    return model


def _named(file: Path, err: ValueError | RuntimeError) -> ValueError | RuntimeError:
    """The same error, short, with the name of the file."""
    reason = " ".join(str(err).split())
    return type(err)(f"{file}: {reason[:600]}{'...' if len(reason) > 600 else ''}")


def _check_is_clip(weights: Mapping[str, Tensor]) -> None:
    """Refuse a model in CLIP's layout whose tokenizer, or more, is another one.

    Raises:
        ValueError: with the number of tokens, or the width of its MLPs.
    """
    for tower in ("", "visual."):
        layer = weights.get(f"{tower}transformer.resblocks.0.mlp.c_fc.weight")
        if layer is not None and len(layer) != 4 * layer.shape[1]:
            raise ValueError(
                f"The MLPs of {tower}transformer are {len(layer)} wide, CLIP's four times "
                f"{layer.shape[1]} (not so ViT-g and ViT-bigG). Name its architecture: "
                f"{BY_ARCHITECTURE}."
            )
    rows = len(weights.get("token_embedding.weight", ())) or VOCABULARY
    if rows != VOCABULARY:
        raise ValueError(
            f"This model has {rows} tokens, CLIP's tokenizer {VOCABULARY}: its texts, and perhaps "
            "its towers, are read in another way (CLIPA, MetaCLIP 2, SigLIP). Name its "
            f"architecture: {BY_ARCHITECTURE}."
        )


def _channels(folder: Path, statistics: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    """Three numbers of a preprocessor_config.json.

    Raises:
        ValueError: if it says anything else there, or a deviation of 0.
    """
    values = statistics[name]
    is_right = isinstance(values, list) and len(values) == 3
    is_right = is_right and all(type(value) in (int, float) for value in values)
    if not is_right or name == "image_std" and min(values) <= 0:
        raise ValueError(
            f"{folder / PREPROCESSING}: {name} is {values!r}; expected three numbers, one per "
            "channel (deviations above 0)."
        )
    red, green, blue = map(float, values)
    return red, green, blue


def weights_in(folder: Path, names: Iterable[str] = WEIGHTS_FILES) -> Path:
    """The weights file of a folder, the first of `names` that is there.

    Raises:
        RuntimeError: if it holds none; lists what is there.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    held = sorted(entry.name for entry in folder.iterdir())
    snapshots = sorted(map(str, (folder / "snapshots").glob("*")))  # of the Hugging Face cache
    what = " or ".join(snapshots) or "the folder of a Hugging Face or open_clip download"
    raise RuntimeError(
        f"{folder} holds no weights of a CLIP{_lora(folder)}: expected {', '.join(WEIGHTS_FILES)}, "
        f"found {', '.join(held[:8]) or 'nothing'}. Give {what}, or a weights file."
    )


def _lora(folder: Path) -> str:
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path", "")
    return f", but the LoRA of {base} (PEFT; merge_and_unload makes a whole model)" if base else ""


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


def _heads(folder: Path) -> dict[str, int]:
    """Head counts that a Hugging Face config gives; without one, the width of heads decides."""
    config = read_json(folder / CONFIG)
    towers = {"vision_heads": "vision_config", "transformer_heads": "text_config"}
    found = {name: section(config, key).get("num_attention_heads") for name, key in towers.items()}
    return {name: heads for name, heads in found.items() if isinstance(heads, int) and heads > 0}
