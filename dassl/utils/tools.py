"""Seeds, environment report and other small tools; re-exports the file helpers."""

import random
from typing import Any

import numpy as np
import PIL
import torch

from .files import (
    check_isfile,
    download_url,
    listdir_nohidden,
    mkdir_if_missing,
    read_json,
    write_json,
)
from .image import read_image
from .registry import check_availability

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
    """Return torch's environment report and the Pillow version, as text."""
    from torch.utils.collect_env import get_pretty_env_info

    return f"{get_pretty_env_info()}\n        Pillow ({PIL.__version__})"


def tolist_if_not(x: Any) -> list:
    """Return `x` if it is a list, else `[x]`."""
    return x if isinstance(x, list) else [x]
