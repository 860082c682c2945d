"""Small checkpoints: a token embedding of which only the trained rows are stored.

A model trained on a small vocabulary touches few of the 49408 token rows. A compact state dict
holds those rows and the recipe of the others (draws from a frozen seeded stream), in place of
`token_embedding.weight`:

    token_embedding.ids     (n,) int64, the trained rows
    token_embedding.rows    (n, W), their values
    token_embedding.std     (), standard deviation of all other rows
    token_embedding.seed    (), seed of their stream
    vocab_size              (), rows of the whole table
    digest                  (32,) uint8, SHA-256 of the expanded float16 state dict
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_WHOLE = "token_embedding.weight"
_IDS, _ROWS = "token_embedding.ids", "token_embedding.rows"
_STD, _SEED = "token_embedding.std", "token_embedding.seed"


def compact(
    state_dict: Mapping[str, Tensor], ids: Tensor, *, std: float, seed: int
) -> dict[str, Tensor]:
    """Compact a state dict in OpenAI's layout: float16, token rows `ids` only.

    Args:
        state_dict: weights; rows of the token embedding outside `ids` are not kept.
        ids: (n,) token ids whose rows were trained.
        std: standard deviation of the other rows.
        seed: seed of the other rows.

    Returns:
        A compact state dict for `torch.save`; `expand` turns it into a whole one.
    """
    ids = torch.as_tensor(ids, dtype=torch.int64).sort().values
    out = {key: _half(value) for key, value in state_dict.items() if key != _WHOLE}
    out[_IDS], out[_ROWS] = ids, _half(state_dict[_WHOLE][ids])
    out[_STD] = torch.tensor(std, dtype=torch.float64)
    out[_SEED] = torch.tensor(seed)
    out["vocab_size"] = torch.tensor(state_dict[_WHOLE].shape[0])
    out["digest"] = _digest(_whole(out))
    return out


def expand(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Expand a compact state dict; any other comes back as it is.

    Raises:
        ValueError: if the digest says that the expanded weights are not the stored model's.
    """
    if _IDS not in state_dict:
        return dict(state_dict)
    whole = _whole(state_dict)
    if not torch.equal(_digest(whole), state_dict["digest"]):
        raise ValueError(
            "This compact checkpoint does not expand to the weights that it was made from: the "
            "file is damaged, or the generator of its untrained token rows changed."
        )
    return whole


def _whole(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    rows = state_dict[_ROWS]
    shape = (int(state_dict["vocab_size"]), rows.shape[1])
    stream = np.random.RandomState(int(state_dict[_SEED]))  # a frozen stream
    table = torch.from_numpy(stream.normal(size=shape) * float(state_dict[_STD])).to(rows.dtype)
    table[state_dict[_IDS]] = rows
    special = (_IDS, _ROWS, _STD, _SEED, "vocab_size", "digest")
    return {**{k: v for k, v in state_dict.items() if k not in special}, _WHOLE: table}


def _half(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return value.to(torch.float16) if value.is_floating_point() else value.clone()


def _digest(state_dict: Mapping[str, Tensor]) -> Tensor:
    sha = hashlib.sha256()
    for key in sorted(state_dict):
        sha.update(key.encode())
        sha.update(state_dict[key].contiguous().numpy().tobytes())
    return torch.tensor(list(sha.digest()), dtype=torch.uint8)
