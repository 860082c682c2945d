"""Items, the dataset base class and the registry.

base_dataset.py  an image with its labels, and the base of datasets
build.py         the registry
draw.py          K items per class
"""

from .base_dataset import DatasetBase, Datum
from .build import DATASET_REGISTRY, build_dataset

__all__ = [
    "DATASET_REGISTRY",
    "DatasetBase",
    "Datum",
    "build_dataset",
]
