"""Checkpoint files: written atomically, read without running any code from the file.

Files of the original hold, inside the warm-up scheduler's state, the scheduler OBJECT that follows
the warm-up, and through it the optimiser. They are read with inert stand-ins for these classes, of
which only the numbers are kept.
"""

import os
import pickle
import re
import struct
import zipfile
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .files import FORMATS, atomic_write, write_text
from .integrity import CHECKSUM, BombError, check_archive, check_content, check_size, checksum_of

_SCHEDULERS = (
    "CosineAnnealingLR",
    "MultiStepLR",
    "StepLR",
    "LambdaLR",
    "ExponentialLR",
    "ConstantLR",
    "LinearLR",
)
_WARMUPS = ("_BaseWarmupScheduler", "ConstantWarmupScheduler", "LinearWarmupScheduler")
_OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}
_CONTAINERS = (dict, defaultdict, Counter, Namespace)
_WRAPPERS = (  # of weights in public files
    *("state_dict", "model_state_dict", "model", "module"),
    *("ema", "ema_state_dict", "net", "network"),
)
_MAX_WRAPPERS = 4  # dictionaries inside one another
_PREFIXES = ("module.", "_orig_mod.")
# what torch.compile, FSDP and activation checkpointing put into names, at any depth
_WRAPPED = re.compile(r"(?<=\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_MEMBERS = ("model", "net", "network", "backbone", "encoder", "student")  # of Lightning modules
_COUNTERS = ("n_averaged", "num_updates", "global_step")  # beside the weights of averages
READ_ERRORS = (  # what torch and safetensors raise for files of other programs
    pickle.UnpicklingError,
    SafetensorError,
    struct.error,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    MemoryError,
    AssertionError,
)
_PLAIN = (bool, int, float, str, type(None))


class _Inert:
    """Takes whatever state a pickled object has, and does nothing with it."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


@lru_cache(maxsize=1)
def _stand_ins() -> tuple[type, ...]:
    """Return one inert class per class that the original's checkpoints may hold."""
    names = [("torch.optim.lr_scheduler", name) for name in _SCHEDULERS]
    names += [("dassl.optim.lr_scheduler", name) for name in _WARMUPS]
    names += [(f"torch.optim.{module}", name) for module, name in _OPTIMIZERS.items()]
    names += [("dassl.optim.radam", "RAdam")]
    return tuple(
        type(name, (_Inert,), {"__module__": module, "__qualname__": name})
        for module, name in names
    )


@contextmanager
def _allow_stand_ins() -> Iterator[None]:
    """Let weights-only loading build the stand-ins, and only them, for a while."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*_stand_ins(), *_CONTAINERS])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _without_objects(value: Any) -> Any:
    """Replace every stand-in by the dictionary of its plain attributes, recursively."""
    if isinstance(value, Namespace):  # the settings of training programs
        return _without_objects(vars(value))
    if isinstance(value, _Inert):
        return {
            key: item
            for key, item in vars(value).items()
            if isinstance(item, _PLAIN)
            or isinstance(item, (list, tuple))
            and all(isinstance(entry, _PLAIN) for entry in item)
            or isinstance(item, dict)
            and all(isinstance(entry, _PLAIN) for entry in item.values())
        }
    if isinstance(value, dict):
        for key in list(value):
            value[key] = _without_objects(value[key])
    elif isinstance(value, list):
        value[:] = [_without_objects(item) for item in value]
    elif type(value) is tuple:
        return tuple(_without_objects(item) for item in value)
    return value


def load_checkpoint(fpath: str | os.PathLike) -> Any:
    """Return the content of a checkpoint: tensors, numbers, strings and containers of them.

    Tensors land on the CPU when CUDA is absent. Reads with `weights_only=True`; old files whose
    scheduler state holds objects are read through an allow-list, and such an object becomes the
    dictionary of its counters. Checksums in the file are compared, see `integrity`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no path, a truncated, damaged, edited or foreign file, or one that holds other
            objects.
    """
    if fpath is None or not str(fpath):
        raise ValueError("File path is None: no checkpoint was given to load.")
    if not os.path.isfile(fpath):
        what = "a folder, not a file" if os.path.isdir(fpath) else "not there"
        raise FileNotFoundError(f'No checkpoint at "{fpath}": it is {what}.')
    check_archive(fpath)
    content = _read(fpath)
    check_size(content, fpath)
    check_content(content, fpath)
    return content


def peek_checkpoint(fpath: str | os.PathLike) -> Any:
    """``load_checkpoint`` for what is beside the tensors: maps the file, compares no checksums.

    Loading the file later compares them.
    """
    try:
        return torch.load(fpath, map_location="cpu", weights_only=True, mmap=True)
    except READ_ERRORS:
        return load_checkpoint(fpath)  # another format, or damaged: it says which


def _read(fpath: str | os.PathLike) -> Any:
    map_location = None if torch.cuda.is_available() else "cpu"
    try:
        if _starts_as_safetensors(fpath):
            return load_file(fpath)
        return torch.load(fpath, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as err:
        first = err
    except READ_ERRORS as err:
        raise _unreadable(fpath, err) from err
    try:
        with _allow_stand_ins():
            content = torch.load(fpath, map_location=map_location, weights_only=True)
            check_size(content, fpath)
            return _without_objects(content)
    except BombError:
        raise
    except READ_ERRORS as err:
        raise _unreadable(fpath, first) from err


def _starts_as_safetensors(fpath: str | os.PathLike) -> bool:
    with open(fpath, "rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{"


def _unreadable(fpath: str | os.PathLike, err: Exception) -> ValueError:
    """One line about a file that is not a checkpoint, by what its first bytes are."""
    what = next(filter(None, (describe(Path(fpath)) for describe in FORMATS)), "") or (
        f"is truncated, or not a torch file ({_reason(err)}). Copy it again, or delete it and "
        "train again"
    )
    if asked := re.search(r"GLOBAL (\S+)", str(err)):
        what = (
            f"holds more than tensors, as it asks for {asked[1]}. Have the program that wrote it "
            "save its tensors alone: torch.save(model.state_dict(), path)"
        )
    size = os.path.getsize(fpath)
    return ValueError(f'"{fpath}" ({size} bytes) cannot be read as a checkpoint: it {what}.')


def _reason(err: Exception) -> str:
    """What torch found, without its advice to load the file unsafely."""
    lines = str(err).strip().splitlines() or ["no details"]
    line = next((line.strip() for line in lines if "Unsupported" in line), lines[0])
    if "weights_only" in line:
        line = "its pickle is not one of tensors"
    return f"{type(err).__name__}: {line[:200]}"


@contextmanager
def tensors_only() -> Iterator[None]:
    """Let packages that load files themselves (timm, torchvision) read nothing but tensors."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def read_tensors(fpath: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The named tensors of a weights file: safetensors or a checkpoint, wrapped in any common way.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a truncated or foreign file, one without tensors, or with some that are
            quantised, sparse, complex, of 8 bits, without values, infinite or NaN.
    """
    state = state_of(load_checkpoint(fpath))
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    first = next(iter(tensors), "").partition(".")[0]
    if first in _MEMBERS and all(key.startswith(f"{first}.") for key in tensors):
        tensors = _unwrapped({k.removeprefix(f"{first}."): v for k, v in tensors.items()})
    if not tensors:
        found = ", ".join(list(state)[:6]) or "nothing"
        raise ValueError(
            f"{fpath} holds no weights: expected names with tensors, found {found}. Save the state "
            "dict of one model alone."
        )
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(
                f"{fpath}: {name} is sparse, quantised or without values. Take the original "
                "weights."
            )
        if tensor.is_complex() or tensor.dtype.is_floating_point and tensor.element_size() < 2:
            raise ValueError(
                f"{fpath}: {name} holds numbers of type {tensor.dtype}, which no network of ours "
                "has. Take the original weights."
            )
        if not tensor.isfinite().all():
            raise ValueError(
                f"{fpath}: {name} holds NaN or infinity: the file is damaged, or its training "
                "diverged. Download it again, or take another epoch."
            )
    return tensors


def state_of(content: Any, own: Collection[str] = ()) -> dict[str, Any]:
    """The named tensors in a checkpoint's content, whatever public code wrapped them in.

    Taken off are dictionaries around them (``state_dict``, ``model_state_dict``, ``model``, ...),
    the prefixes of DataParallel and torch.compile, the counters of weight averages, and the name of
    the member that Lightning modules keep the model in.

    Args:
        content: of a file; anything that is not a mapping has no tensors.
        own: names that are expected; Lightning's prefix is taken off if they are found so.
    """
    entries: Mapping = {}
    for _ in range(_MAX_WRAPPERS):
        entries = content if isinstance(content, Mapping) else {}
        wrapped = [entries[key] for key in _WRAPPERS if isinstance(entries.get(key), Mapping)]
        if not wrapped:
            break
        content = wrapped[0]
    state = {str(key): value for key, value in entries.items()}
    state = {k: v for k, v in state.items() if k in own or k not in _COUNTERS}
    state = _unwrapped(state, own)
    first = next(iter(state), "").partition(".")[0] + "."
    if not all(key.startswith(first) for key in state):
        return state
    inner = _unwrapped({key.removeprefix(first): value for key, value in state.items()}, own)
    return inner if len(set(own) & set(inner)) > len(set(own) & set(state)) else state


def _unwrapped(state: Mapping[str, Any], own: Collection[str] = ()) -> dict[str, Any]:
    """Names without what DataParallel, torch.compile, FSDP and the like add."""

    def name(key: str) -> str:
        prefix = next((p for p in _PREFIXES if key.startswith(p) and key not in own), "")
        if prefix:
            return name(key.removeprefix(prefix))
        return key if key in own else _WRAPPED.sub("", key)

    return {name(key): value for key, value in state.items()}


def strip_module(state_dict: dict) -> dict:
    """Return the state dict without the leading `module.` that DataParallel adds."""
    return {k[7:] if k.startswith("module.") else k: v for k, v in state_dict.items()}


def write_checkpoint(content: dict, fpath: str | os.PathLike) -> None:
    """Write a file that `load_checkpoint` reads: atomically, with a checksum beside the content.

    Raises:
        OSError: if it cannot be written; names the file.
    """
    write_tensors({**content, CHECKSUM: checksum_of(content)}, fpath)


def write_tensors(content: Any, path: str | os.PathLike) -> None:
    """``torch.save``, atomically.

    Raises:
        OSError: if it cannot be written; names the file.
    """
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def save_checkpoint(
    state: dict,
    save_dir: str | os.PathLike,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Write `<save_dir>/<model_name or model.pth.tar-epoch>` and the pointer file `checkpoint`.

    Args:
        state: at least `state_dict` and `epoch`; the file holds what it holds, and a checksum.
        save_dir: made if missing.
        is_best: also write the same content as `model-best.pth.tar`.
        remove_module_from_keys: strip a leading `module.`.
        model_name: file name; default `model.pth.tar-<epoch>`.
    """
    save_dir = Path(save_dir)
    if remove_module_from_keys:
        state = {**state, "state_dict": strip_module(state["state_dict"])}
    fpath = save_dir / (model_name or f"model.pth.tar-{state['epoch']}")
    write_checkpoint(state, fpath)
    print(f"Checkpoint saved to {fpath}")
    write_text(save_dir / "checkpoint", f"{fpath.name}\n")
    if is_best:
        best = save_dir / "model-best.pth.tar"
        write_checkpoint(state, best)
        print(f'Best checkpoint saved to "{best}"')


def resume_from_checkpoint(
    fdir: str | os.PathLike,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: Any = None,
) -> int:
    """Load the checkpoint that `<fdir>/checkpoint` names; return the epoch stored in it.

    The optimiser's and scheduler's states are loaded if both sides have one.
    """
    pointer = Path(fdir) / "checkpoint"
    if not pointer.is_file():
        raise FileNotFoundError(f"{fdir} holds no file named checkpoint: nothing to resume from.")
    fpath = Path(fdir) / pointer.read_text(encoding="utf-8").splitlines()[0].strip()
    print(f'Loading checkpoint from "{fpath}"')
    checkpoint = load_checkpoint(fpath)
    model.load_state_dict(checkpoint["state_dict"])
    print("Loaded model weights")
    if optimizer is not None and checkpoint.get("optimizer") is not None:
        optimizer.load_state_dict(checkpoint["optimizer"])
        print("Loaded optimizer")
    if scheduler is not None and checkpoint.get("scheduler") is not None:
        scheduler.load_state_dict(checkpoint["scheduler"])
        print("Loaded scheduler")
    epoch = checkpoint["epoch"]
    print(f"Previous epoch: {epoch}")
    return epoch
