"""Datasets, loaders, samplers, transforms."""

from .data_manager import DataManager, DatasetWrapper, build_data_loader
from .given import GivenData
from .seeding import set_epoch

__all__ = ["DataManager", "DatasetWrapper", "GivenData", "build_data_loader", "set_epoch"]
