"""Read the tensors of a TorchScript archive without running its code.

OpenAI publishes CLIP as TorchScript. ``torch.jit.load`` executes code that such a file brings
along, and PyTorch is removing it. The tensors need neither: ``data.pkl`` is a pickle of modules
whose attributes are numbers, tensors and further modules, and every storage is an uncompressed
entry of the zip archive. The pickle is read with an allow-list of constructors, all of them inert.
"""

from __future__ import annotations

import collections
import math
import pickle
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .formats import is_zip

MAX_PICKLE_BYTES = 64 << 20  # data.pkl holds names and shapes; OpenAI's largest has 0.4 MB
MAX_DEPTH = 64  # of nested modules
SMALL, MOST_TIMES = 2**26, 20  # bytes that any file may unfold to; above, bytes per byte of it
DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass
class ScriptArchive:
    """What a TorchScript archive holds.

    Attributes:
        tensors: parameters and buffers by their dotted names.
        classes: names of the module classes, as ``__torch__.clip.model.QuickGELU``.
    """

    tensors: dict[str, Tensor]
    classes: set[str]


@dataclass
class _Script:
    """A module of the archive: its attributes, and nothing that can be called."""

    state: dict[str, Any] = field(default_factory=dict)

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


def is_script_archive(path: Path) -> bool:
    """Whether a file is a zip archive with TorchScript code or constants."""
    if not is_zip(path):
        return False
    with zipfile.ZipFile(path) as archive:
        inner = (name.split("/")[1:2] for name in archive.namelist())
        return any(part in (["constants.pkl"], ["code"]) for part in inner)


def check_unfolded(path: Path, tensors: Iterable[Tensor] = ()) -> None:
    """Refuse a file that stands for many times its own bytes: torch compresses nothing.

    Args:
        path: the file; the entries of a zip archive count.
        tensors: that were read from it; those that repeat their memory count in full.

    Raises:
        ValueError: naming both sizes.
    """
    size, unfolded = path.stat().st_size, sum(t.numel() * t.element_size() for t in tensors)
    if not unfolded and is_zip(path):
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(info.file_size for info in archive.infolist())
    if unfolded > max(SMALL, MOST_TIMES * size):
        raise ValueError(
            f"it would unfold to {unfolded:,} bytes, more than {MOST_TIMES} times its size: save "
            "its tensors again, uncompressed"
        )


def read_script_archive(path: Path) -> ScriptArchive:
    """Read every tensor of a TorchScript archive, on the CPU; no code of the file is run.

    Raises:
        pickle.UnpicklingError: if the file asks for anything but modules, tensors and numbers.
        ValueError: if its entries are compressed, or are not what they claim to be.
    """
    with zipfile.ZipFile(path) as archive:
        roots = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(roots) != 1:
            raise ValueError(f"it holds {len(roots)} entries <name>/data.pkl, expected one")
        info = archive.getinfo(roots[0])
        if info.file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"its data.pkl has {info.file_size} bytes")
        with archive.open(info) as stream:
            reader = _Unpickler(stream, archive, roots[0].removesuffix("data.pkl"))
            module = reader.load()
    tensors: dict[str, Tensor] = {}
    _collect(module, "", tensors, 0)
    return ScriptArchive(tensors, reader.classes)


def _collect(module: Any, prefix: str, tensors: dict[str, Tensor], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"its modules are nested deeper than {MAX_DEPTH}")
    for name, value in module.state.items() if isinstance(module, _Script) else ():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{name}"] = value
        elif isinstance(value, _Script):
            _collect(value, f"{prefix}{name}.", tensors, depth + 1)


class _Unpickler(pickle.Unpickler):
    """Builds ``_Script`` for every module class, tensors from the archive's entries."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(stream)
        self.archive, self.root = archive, root
        self.classes: set[str] = set()
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            self.classes.add(f"{module}.{name}")
            return _Script
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        allowed = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, tag: value,
        }
        if module == "torch.jit._pickle" and name in _LISTS:
            return list
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no weights need")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Tensor:
        """The storage ``("storage", dtype, key, device, number of elements)`` as a flat tensor."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown persistent id {kind!r}")
        if key not in self._storages:
            info = self.archive.getinfo(f"{self.root}data/{key}")
            expected = count * dtype.itemsize
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != expected:
                raise ValueError(
                    f"its storage {key} is compressed or has {info.file_size} bytes, not {expected}"
                )
            data = bytearray(self.archive.read(info))
            storage = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            self._storages[key] = storage
        return self._storages[key]

    @staticmethod
    def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
        if math.prod(size) > storage.numel():
            raise ValueError(f"a tensor of shape {tuple(size)} overlaps itself")
        return storage.as_strided(size, stride, offset)


_LISTS = ("build_boollist", "build_doublelist", "build_intlist", "build_tensorlist")
