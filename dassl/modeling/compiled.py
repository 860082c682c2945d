"""TRAIN.COMPILE: the layers that a network repeats, compiled by ``torch.compile``.

A layer is compiled once and serves all its copies, so that compiling takes seconds, not minutes,
and hooks around the layers (adapters, prompts) stay Python. Names in checkpoints do not change.
"""

import importlib.util
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn
from yacs.config import CfgNode

logger = logging.getLogger(__name__)
BACKEND = "inductor"  # of torch.compile


def repeated_layers(network: nn.Module) -> Iterator[nn.Module]:
    """The members of a list or sequence, more than one of their class, that have layers themselves.

    Blocks of a transformer, bottlenecks of a ResNet; the outermost where they are nested.
    """
    if isinstance(network, (nn.Sequential, nn.ModuleList)):
        counts = Counter(type(layer) for layer in network)
        found = [layer for layer in network if counts[type(layer)] > 1 and any(layer.children())]
    else:
        found = []
    yield from found
    for child in network.children():
        if child not in found:
            yield from repeated_layers(child)


def compile_layers(cfg: CfgNode, *networks: nn.Module | None, device: torch.device | str) -> None:
    """Compile the repeated layers of networks where TRAIN.COMPILE asks for it.

    Layers that an earlier run has compiled run as they are where it does not.

    Raises:
        ValueError: if there is no compiler for the device.
    """
    layers = {layer for one in networks if one is not None for layer in repeated_layers(one)}
    if not cfg.TRAIN.COMPILE:
        for layer in filter(_is_compiled, layers):
            layer._compiled_call_impl = None
        return
    check_compiler(torch.device(device))
    waiting = [layer for layer in layers if not _is_compiled(layer)]
    for layer in waiting:
        layer.compile(backend=BACKEND)
    if waiting:
        logger.info("TRAIN.COMPILE: %d layers are compiled when they are first used.", len(waiting))


def _is_compiled(layer: nn.Module) -> bool:
    return layer._compiled_call_impl is not None


def check_compiler(device: torch.device) -> None:
    """Refuse where ``torch.compile`` would fail at the first batch.

    Raises:
        ValueError: naming what is missing.
    """
    if BACKEND != "inductor":
        return
    if device.type == "cuda":
        missing = "" if importlib.util.find_spec("triton") else "the package triton"
    else:
        compilers = os.environ.get("CXX"), "g++", "clang++", "cl"
        found = any(shutil.which(name) for name in compilers if name)
        missing = "" if found else "a C++ compiler (g++ or clang++ on PATH, or CXX)"
    if missing:
        raise ValueError(
            f"TRAIN.COMPILE is True, but torch.compile needs {missing} on {device.type}, which is "
            "not there. Install it, or leave TRAIN.COMPILE out."
        )


def is_compiled(network: nn.Module) -> bool:
    """Whether a layer of a network is compiled: its features are rounded in another way."""
    return any(map(_is_compiled, network.modules()))
