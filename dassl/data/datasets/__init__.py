"""Items, the dataset base class, the registry and the few-shot draw."""

from .base_dataset import DatasetBase, Datum
from .build import DATASET_REGISTRY, build_dataset
from .fewshot import fewshot_split, read_datum_pickle

__all__ = [
    "DATASET_REGISTRY",
    "DatasetBase",
    "Datum",
    "build_dataset",
    "fewshot_split",
    "read_datum_pickle",
]
