"""Helpers on networks; re-exports the checkpoint functions."""

import hashlib
import os
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .checkpoint import (
    load_checkpoint,
    resume_from_checkpoint,
    save_checkpoint,
    state_of,
    write_checkpoint,
    write_tensors,
)
from .text import did_you_mean

__all__ = [
    "count_num_param",
    "init_network_weights",
    "load_checkpoint",
    "load_pretrained_weights",
    "open_all_layers",
    "open_specified_layers",
    "resume_from_checkpoint",
    "save_checkpoint",
    "write_checkpoint",
    "write_tensors",
    "weights_digest",
]


def load_pretrained_weights(model: nn.Module, weight_path: str | os.PathLike) -> None:
    """Copy every entry of a checkpoint whose name and shape fit the model.

    Wrappers and prefixes of public code are taken off (`state_of`). Warns if nothing fits; prints
    the names that were left out.
    """
    checkpoint = load_checkpoint(weight_path)
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f"{weight_path} holds a {type(checkpoint).__name__}, expected a state dict."
        )
    own = model.state_dict()
    given = {k: v for k, v in state_of(checkpoint, own).items() if isinstance(v, torch.Tensor)}
    fits = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    discarded = [k for k in given if k not in fits]
    model.load_state_dict({**own, **fits})
    if not fits:
        warnings.warn(
            f"Cannot load {weight_path}: no entry fits the model by name and shape. Check the key "
            f"names: the file has {', '.join(list(given)[:5])}; the model has "
            f"{', '.join(list(own)[:5])}.",
            stacklevel=2,
        )
        return
    print(f"Successfully loaded pretrained weights from {weight_path}")
    if discarded:
        print(f"Layers discarded due to unmatched keys or size: {discarded}")


def count_num_param(
    model: nn.Module | None = None,
    params: Iterable[nn.Parameter | dict[str, Any]] | None = None,
) -> int:
    """Return the number of parameter elements of a model, or of `params` (or groups) if given.

    A classifier that is switched off (an attribute `classifier` set to None, say) has none.
    """
    if params is None:
        if model is None:
            raise ValueError("count_num_param() takes a model or params, both were None.")
        params = model.parameters()
    groups = (entry["params"] if isinstance(entry, dict) else [entry] for entry in params)
    return sum(p.numel() for group in groups for p in group)


def open_all_layers(model: nn.Module) -> None:
    """Put the model in train mode with every parameter trainable."""
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad = True


def open_specified_layers(model: nn.Module, open_layers: str | Iterable[str]) -> None:
    """Train the named children only; the others are frozen and put in eval mode."""
    model = getattr(model, "module", model)
    open_layers = [open_layers] if isinstance(open_layers, str) else list(open_layers)
    children = dict(model.named_children())
    for layer in open_layers:
        if layer not in children:
            raise ValueError(
                f'The model has no child "{layer}" to open. {did_you_mean(layer, children)}'
            )
    for name, child in children.items():
        is_open = name in open_layers
        child.train(is_open)
        for parameter in child.parameters():
            parameter.requires_grad = is_open


def init_network_weights(model: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Initialise conv and linear weights (normal, xavier, kaiming, orthogonal), biases with 0.

    Batch norm layers get weight 1, instance norm layers weight 1 if they have one.
    """
    fillers = {
        "normal": lambda w: nn.init.normal_(w, 0.0, gain),
        "xavier": lambda w: nn.init.xavier_normal_(w, gain=gain),
        "kaiming": lambda w: nn.init.kaiming_normal_(w, a=0, mode="fan_in"),
        "orthogonal": lambda w: nn.init.orthogonal_(w, gain=gain),
    }
    if init_type not in fillers:
        raise ValueError(f'init_type "{init_type}": {did_you_mean(init_type, fillers)}')
    for module in model.modules():
        kind = type(module).__name__
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if "Norm" in kind:
            if weight is not None:
                nn.init.constant_(weight, 1.0)
            if bias is not None:
                nn.init.constant_(bias, 0.0)
        elif weight is not None and ("Conv" in kind or "Linear" in kind):
            fillers[init_type](weight)
            if bias is not None:
                nn.init.constant_(bias, 0.0)


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
