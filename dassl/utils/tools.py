"""Seeds, environment report and other small tools; re-exports the file helpers."""

import contextlib
import hashlib
import os
import platform
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from .downloads import download_url
from .files import (
    cache_dir,
    check_isfile,
    listdir_nohidden,
    mkdir_if_missing,
    write_json,
    write_text,
)
from .image import read_image
from .registry import check_availability
from .text_files import read_json

__all__ = [
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "download_url",
    "listdir_nohidden",
    "mkdir_if_missing",
    "read_image",
    "read_json",
    "set_random_seed",
    "tolist_if_not",
    "write_json",
]

_SEED_LIMIT = 2**32


def set_random_seed(seed: int) -> None:
    """Seed Python's `random`, NumPy and torch (CPU and every CUDA device). 0 is a valid seed."""
    if not 0 <= seed < _SEED_LIMIT:
        raise ValueError(f"A seed is an integer from 0 to {_SEED_LIMIT - 1}, not {seed}.")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def collect_env_info() -> str:
    """Return torch's environment report and the Pillow version, as text.

    torch asks pip and several programs, which takes seconds: the report is kept in the cache
    folder until the environment changes (machine, interpreter, packages, visible GPUs).
    """
    packages = Path(torch.__file__).parents[1]
    facts = [sys.version, sys.prefix, torch.__version__, packages.stat().st_mtime_ns]
    facts += [platform.node(), platform.platform(), os.environ.get("CUDA_VISIBLE_DEVICES")]
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    path = cache_dir() / "environment" / f"{digest}.txt"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    from torch.utils.collect_env import get_pretty_env_info

    pillow = f"        Pillow ({PIL.__version__})"
    try:
        report = f"{get_pretty_env_info()}\n{pillow}"
    except OSError as err:  # a program that this user may not start
        return f"torch {torch.__version__} gives no report of this machine ({err})\n{pillow}"
    # a folder that cannot be written costs the next run a few seconds
    with contextlib.suppress(OSError):
        write_text(path, report)
    return report


def tolist_if_not(x: Any) -> list:
    """Return `x` if it is a list, else `[x]`."""
    return x if isinstance(x, list) else [x]
