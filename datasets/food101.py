"""Food101: 101 dishes (Bossard et al., ECCV 2014)."""

from dassl.data.datasets import DATASET_REGISTRY

from .split_dataset import FolderSplitDataset


@DATASET_REGISTRY.register()
class Food101(FolderSplitDataset):
    """Rebuild: rule P, class name = folder name."""

    dataset_dir = "food-101"
    section = "Food101"
    config = "food101"
