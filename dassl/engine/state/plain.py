"""What may go into checkpoints and resume files: data, never objects."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_PLAIN = (bool, int, float, str, bytes, type(None), torch.Tensor, torch.dtype, torch.Size)


def plain(value: Any, *, where: str) -> Any:
    """A copy of the containers in ``value``, with NumPy scalars as Python's.

    Args:
        value: tensors, numbers, strings, None, and lists, tuples and mappings of them.
        where: what holds the value, for the error.

    Raises:
        TypeError: for anything else: it could not be loaded with ``weights_only=True``.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.nn.Parameter):
        return value.detach()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {key: plain(item, where=f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(item, where=f"{where}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(
        f"{where} is a {type(value).__module__}.{type(value).__name__}; a checkpoint holds only "
        "tensors, numbers, strings, None and lists, tuples and dictionaries of them. Convert it "
        "(an array with torch.from_numpy, a set with sorted, a module with state_dict())."
    )
