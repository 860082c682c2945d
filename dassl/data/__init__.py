"""Datasets, loaders, samplers, transforms.

datasets, transforms, samplers.py           items and datasets; image pipelines; orders
data_manager.py, loader.py, workers.py      items as tensors, loaders over them, their processes
given.py                                    batches of tensors in the place of a dataset
seeding.py, pixels.py                       augmentation by (seed, epoch, index); normalisation
drawn                                       views drawn where an image is read, made on the device
checks.py                                   whether images exist and can be read

A name is loaded when it is first asked for.
"""

# ruff: noqa: F401  (the imports tell type checkers what __getattr__ finds)
from typing import TYPE_CHECKING

from dassl.lazy import lazily

if TYPE_CHECKING:
    from .data_manager import DataManager, DatasetWrapper, build_data_loader
    from .given import GivenData
    from .seeding import set_epoch

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "data_manager": ("DataManager", "DatasetWrapper", "build_data_loader"),
        "given": ("GivenData",),
        "seeding": ("set_epoch",),
    },
)
