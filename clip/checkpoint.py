"""Read the weights of a CLIP from a file, whatever way they were saved; no code in it is run."""

from __future__ import annotations

import json
import logging
import pickle
import re
import struct
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .archive import check_unfolded, is_script_archive, read_script_archive
from .compact import expand
from .formats import foreign_format, starts_as_safetensors

logger = logging.getLogger(__name__)
READ_ERRORS = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    struct.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    SafetensorError,
    AssertionError,
    MemoryError,
)
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "ema", "ema_state_dict")
PREFIXES = ("module.", "model.", "clip_model.", "clip.")  # of every key of a file
# one entry that every CLIP has, OpenAI's and Hugging Face's: what precedes it precedes all others
MARKS = ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight")
# what torch.compile, FSDP and activation checkpointing put into names, at any depth
WRAPPED = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
MAX_WRAPPERS = 4  # dictionaries inside one another
INDEX = ".index.json"  # of weights that are divided among several files


@dataclass
class WeightsFile:
    """What a weights file holds.

    Attributes:
        tensors: by name, on the CPU; wrappers and common prefixes are removed.
        classes: names of module classes, where the file tells them (TorchScript archives).
        metadata: what the header of a safetensors file says.
    """

    tensors: dict[str, Tensor]
    classes: set[str] = field(default_factory=set)
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of ``read_weights``."""
    return read_weights(path).tensors


def read_weights(path: str | Path) -> WeightsFile:
    """Read a weights file.

    Understands TorchScript archives, plain state dicts, safetensors files, compact checkpoints
    (clip/compact.py), wrappers such as ``{"state_dict": ...}`` and prefixes such as ``module.``.

    Raises:
        FileNotFoundError: if there is no such file.
        RuntimeError: if it is not a checkpoint, or is damaged; says what its first bytes look like.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    found = WeightsFile({})
    if path.name.endswith(INDEX):
        for part in _parts(path):
            found.tensors.update(read_weights(part).tensors)
        return found
    try:
        content: Any
        check_unfolded(path)
        if is_script_archive(path):
            archive = read_script_archive(path)
            content, found.classes = archive.tensors, archive.classes
        elif starts_as_safetensors(path):
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                content = {name: file.get_tensor(name) for name in names}
                found.metadata = dict(file.metadata() or {})
        else:
            with torch.serialization.safe_globals([Namespace]):  # of training programs; inert
                content = torch.load(path, map_location="cpu", weights_only=True)
        named = _named(content)
        check_unfolded(path, named.values())
    except READ_ERRORS as err:
        raise RuntimeError(_unreadable(path, err)) from err
    if not named:
        held = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content)
        raise RuntimeError(
            f"{path} holds no state dict: expected names with tensors, found "
            f"{str(held)[:200] or 'nothing'}."
        )
    try:
        found.tensors = expand(_of_one_model(named, path))
    except (ValueError, RuntimeError, KeyError) as err:
        raise RuntimeError(f"{path} cannot be read as weights: {_first_line(err)}.") from err
    return found


def _parts(index: Path) -> list[Path]:
    """The files that an index of Hugging Face names, all of them beside it.

    Raises:
        RuntimeError: if it is not such an index, or a part is missing.
    """
    try:
        names = sorted({str(name) for name in json.loads(index.read_text())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise RuntimeError(f"{index} is not an index of weights: it has no weight_map.") from err
    parts = [index.parent / name for name in names]
    for part in parts:
        if part.parent != index.parent or part.name.endswith(INDEX):
            raise RuntimeError(f"{index} names {part}: expected weights files beside it.")
        if not part.is_file():
            raise RuntimeError(f"{index} names {part.name}, which is not there. Download it, too.")
    return parts


def _named(content: Any) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, out of dictionaries around them."""
    for _ in range(MAX_WRAPPERS):
        if not isinstance(content, Mapping):
            return {}
        inner = {key: value for key, value in content.items() if isinstance(value, Mapping)}
        named = [inner[key] for key in WRAPPERS if key in inner]
        if not named and not any(isinstance(value, Tensor) for value in content.values()):
            named = list(inner.values()) if len(inner) == 1 else []  # the only one there is
        if not named:
            break
        content = named[0]
    return {
        WRAPPED.sub("", str(key)): value
        for key, value in content.items()
        if isinstance(value, Tensor)
    }


def _of_one_model(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Without the prefixes of wrappers; what stands beside a CLIP in a larger module is left out.

    Raises:
        ValueError: if the file holds several models.
    """
    found = sorted({k.removesuffix(m) for m in MARKS for k in tensors if k.endswith(m)})
    if len(found) > 1:
        places = ", ".join(name or "(no prefix)" for name in found)
        raise ValueError(f"it holds {len(found)} models ({places}); save one of them alone")
    if found:
        prefix = found[0]
        rest = [key for key in tensors if not key.startswith(prefix)]
        if rest:
            logger.warning(
                "%s: the model below %s is read; left out: %d entries (%s).",
                *(path, prefix, len(rest), ", ".join(rest[:3])),
            )
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    while tensors:
        common = next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), None)
        if common is None:
            break
        tensors = {key.removeprefix(common): value for key, value in tensors.items()}
    return tensors


def _unreadable(path: Path, err: Exception) -> str:
    """One sentence about a file that cannot be read, by what its first bytes are."""
    what = foreign_format(path) or (
        f"cannot be read as weights; it is damaged, or holds more than tensors ({_first_line(err)})"
        ". Download it again, or have the program that wrote it save its tensors alone: "
        "torch.save(model.state_dict(), path)"
    )
    return f"{path} ({path.stat().st_size} bytes) {what}."


def _first_line(err: Exception) -> str:
    """The cause, without the advice of torch to load the file unsafely."""
    if "weights_only" in str(err) or isinstance(err, pickle.UnpicklingError):
        words = str(err).split("GLOBAL ")
        asked = words[1].split()[0] if len(words) > 1 else ""
        return f"it asks for {asked}" if asked else "its pickle is not one of tensors"
    return str(err).splitlines()[0][:200] if str(err) else type(err).__name__
