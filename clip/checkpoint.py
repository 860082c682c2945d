"""Read the weights of a CLIP from a file, whatever way they were saved."""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .compact import expand

READ_ERRORS = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    pickle.UnpicklingError,
    SafetensorError,
)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict, on the CPU.

    Understands TorchScript archives, plain state dicts, `{"state_dict": ...}` wrappers, safetensors
    files, compact checkpoints (clip/compact.py) and `module.` prefixes. Never runs code from a
    plain checkpoint.

    Raises:
        FileNotFoundError: if there is no such file.
        RuntimeError: if it is no checkpoint, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    try:
        if _is_torchscript(path):
            with warnings.catch_warnings():  # OpenAI's files are archives: nothing to fix
                warnings.filterwarnings("ignore", message=".*torch.jit.*")
                state_dict = torch.jit.load(str(path), map_location="cpu").state_dict()
        elif path.suffix == ".safetensors":
            state_dict = load_file(path)
        else:
            state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except READ_ERRORS as err:
        raise RuntimeError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a TorchScript archive or as "
            f"a plain checkpoint of tensors. It may be truncated: {err}"
        ) from err
    if isinstance(state_dict, dict) and isinstance(state_dict.get("state_dict"), dict):
        state_dict = state_dict["state_dict"]
    tensors = {k: v for k, v in dict(state_dict).items() if isinstance(v, Tensor)}
    if not tensors:
        raise RuntimeError(f"{path} holds no state dict: expected names with tensors.")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return expand(tensors)


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(
            name.split("/")[1:2] in (["constants.pkl"], ["code"]) for name in archive.namelist()
        )


def weights_digest(model: nn.Module) -> str:
    """SHA-256, in hexadecimal, of a model's weights (by value, in float32) and module types.

    Storage precision and device do not change it: a float16-valued checkpoint has one digest.
    """
    sha = hashlib.sha256()
    for name, module in model.named_modules():
        heads = getattr(module, "heads", getattr(module, "num_heads", ""))
        sha.update(f"{name}:{type(module).__name__}:{heads};".encode())
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(f"{name}{tuple(tensor.shape)}".encode())
        tensor = tensor.detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor.long()
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()
