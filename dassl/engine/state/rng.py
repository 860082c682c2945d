"""Every random state of a run as tensors, numbers and containers, for the resume file."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dassl.utils import ranks


def rng_state() -> dict[str, Any]:
    """State of Python's, NumPy's and torch's (CPU and every CUDA device) global generators."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": {"version": version, "internal": list(internal), "gauss_next": gauss_next},
        "numpy": {
            "kind": str(kind),
            "keys": [int(key) for key in keys],
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cuda else [],
    }


def load_rng_state(state: dict[str, Any]) -> None:
    """Set the global generators to a state made by ``rng_state``.

    CUDA states beyond the devices that are visible now are ignored.
    """
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["internal"]), python["gauss_next"]))
    keys = np.array(numpy["keys"], dtype=np.uint32)
    np.random.set_state(
        (numpy["kind"], keys, numpy["position"], numpy["has_gauss"], numpy["cached"])
    )
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and ranks.size() > 1 and state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0].cpu())  # as the writer's: all draw the same
    elif torch.cuda.is_available():
        for device, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(value.cpu(), device)


def loader_generators(loaders: dict[str, Any]) -> Iterator[tuple[str, torch.Generator]]:
    """Generators that loaders, their samplers and their datasets own, with stable names."""
    seen: set[int] = set()
    for name, loader in sorted(loaders.items()):
        batch_sampler = getattr(loader, "batch_sampler", None)
        owners = {
            "loader": loader,
            "sampler": getattr(loader, "sampler", None),
            "batch_sampler": batch_sampler,
            "batch_sampler.sampler": getattr(batch_sampler, "sampler", None),
            "dataset": getattr(loader, "dataset", None),
        }
        for part, owner in owners.items():
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator) and id(generator) not in seen:
                seen.add(id(generator))
                yield f"{name}.{part}", generator
