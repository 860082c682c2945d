"""Read the weights of a CLIP from a file, whatever way they were saved; no code in it is run."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .archive import check_unfolded, is_script_archive, read_script_archive
from .compact import expand

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
)
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "ema", "ema_state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.", "clip_model.", "clip.")  # of every key of a file
MAX_WRAPPERS = 4  # dictionaries inside one another


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
    try:
        content: Any
        check_unfolded(path)
        if is_script_archive(path):
            archive = read_script_archive(path)
            content, found.classes = archive.tensors, archive.classes
        elif _starts_as_safetensors(path):
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                content = {name: file.get_tensor(name) for name in names}
                found.metadata = dict(file.metadata() or {})
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        tensors = _tensors(content)
        check_unfolded(path, tensors.values())
        found.tensors = expand(tensors)
    except READ_ERRORS as err:
        raise RuntimeError(_unreadable(path, err)) from err
    if not found.tensors:
        raise RuntimeError(f"{path} holds no state dict: expected names with tensors.")
    return found


def _tensors(content: Any) -> dict[str, Tensor]:
    """The named tensors of a checkpoint, without wrappers and prefixes."""
    for _ in range(MAX_WRAPPERS):
        inner = [content[key] for key in WRAPPERS if isinstance(content, Mapping) and key in content
                 and isinstance(content[key], Mapping)]  # fmt: skip
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    while tensors:
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), None)
        if prefix is None:
            break
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _starts_as_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{"


def _unreadable(path: Path, err: Exception) -> str:
    """One sentence about a file that cannot be read, by what its first bytes are."""
    with path.open("rb") as file:
        head = file.read(512)
    size = path.stat().st_size
    start = head.lstrip().lower()
    if not head:
        what = "is empty. Download it again"
    elif head.startswith(b"version https://git-lfs"):
        what = (
            "is a Git LFS pointer, not the weights. Run git lfs pull, or download the file itself"
        )
    elif start.startswith((b"<!doctype", b"<html", b"<?xml")):
        what = "is a web page, not weights: the download was answered by an error page"
    elif head.startswith(b"PK") and not zipfile.is_zipfile(path):
        what = "is a zip archive without its end: it is truncated. Download it again"
    elif head.startswith(b"PK") or head.startswith(b"\x80") or _starts_as_safetensors(path):
        reason = _first_line(err)
        what = f"cannot be read as weights; it is damaged, or holds more than tensors ({reason})"
    elif b"\0" not in head and _is_text(head):
        what = "is a text file, not weights"
    else:
        what = "is in no known format for weights"
    return f"{path} ({size} bytes) {what}."


def _first_line(err: Exception) -> str:
    """The cause, without the advice of torch to load the file unsafely."""
    if "weights_only" in str(err) or isinstance(err, pickle.UnpicklingError):
        words = str(err).split("GLOBAL ")
        asked = words[1].split()[0] if len(words) > 1 else ""
        return f"it asks for {asked}" if asked else "its pickle is not one of tensors"
    return str(err).splitlines()[0][:200] if str(err) else type(err).__name__


def _is_text(head: bytes) -> bool:
    try:
        head[:-4].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
