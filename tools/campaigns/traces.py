"""What runs leave: results and checkpoints as digests that can be compared, and what is left over.

Times, memory, paths and versions of the code are not compared; every bit of weights, optimizers,
scores and metrics is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dassl.utils import load_checkpoint, read_json
from dassl.utils.locks import is_in_use

PASSING = {
    "seconds",
    "peak_memory_bytes",
    "command",
    "source_code",
    "versions",
    "files",
}  # of results
OF_PLACES = {"config", "checksum", "folder"}  # of checkpoints and predictions


def digests(folder: Path) -> dict[str, str]:
    """Path below the folder -> digest of what is in it, of every file that a run is judged by."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (value := _content(path)) is not None:
            found[path.relative_to(folder).as_posix()] = digest(value)
    return found


def difference(expected: Path, found: Path) -> list[str]:
    """What of two folders of runs is not the same, as one text, or nothing."""
    left, right = digests(expected), digests(found)
    names = [n for n in sorted(left.keys() | right.keys()) if left.get(n) != right.get(n)]
    return [f"differs: {', '.join(names)}"] if names or not left else []


def completions(folder: Path) -> dict[str, int]:
    """Folder of a run -> how often its logs say that it came to its end."""
    found = {}
    for results in sorted(folder.rglob("results.json")):
        logs = [path.read_text(encoding="utf-8") for path in results.parent.glob("log.txt*")]
        found[results.parent.relative_to(folder).as_posix()] = "".join(logs).count("\nElapsed: ")
    return found


def _content(path: Path) -> Any:
    if path.name == "results.json":
        return {key: value for key, value in read_json(path).items() if key not in PASSING}
    if path.name.startswith("model") and ".pth.tar" in path.name:
        kept = load_checkpoint(str(path))
        return {key: value for key, value in kept.items() if key not in OF_PLACES}
    if path.name == "predictions.npz":
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files if name not in OF_PLACES}
    return None


def digest(value: Any) -> str:
    """SHA-256 of a value of plain types, arrays and tensors, every bit of them."""
    state = hashlib.sha256()
    _feed(state, value)
    return state.hexdigest()


def _feed(state: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.contiguous().view(torch.uint8) if value.ndim else value.reshape(1)
        value = value.numpy()
    if isinstance(value, np.ndarray):
        state.update(f"{value.dtype}{value.shape}".encode())
        state.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            state.update(repr(key).encode())
            _feed(state, value[key])
    elif isinstance(value, (list, tuple)):
        state.update(b"%d" % len(value))
        for item in value:
            _feed(state, item)
    else:
        state.update(repr(value).encode())


def leftovers(folder: Path) -> dict[str, list[str]]:
    """What should not be there once all runs are finished, by kind."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found = {
        "temporary files": [p for p in paths if p.suffix == ".tmp"],
        "states of runs": [p for p in paths if p.match("resume.*")],
        "locks": [p for p in paths if p.name == ".lock" and is_in_use(p.parent)],
    }
    return {
        kind: [path.relative_to(folder).as_posix() for path in names]
        for kind, names in found.items()
        if names
    }
