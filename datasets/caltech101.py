"""Caltech101: 100 object categories as CoOp uses them (Fei-Fei et al., 2004)."""

from dassl.data.datasets import DATASET_REGISTRY

from .split_dataset import FolderSplitDataset


@DATASET_REGISTRY.register()
class Caltech101(FolderSplitDataset):
    """Rebuild: rule P without the background and the duplicate of the faces."""

    dataset_dir = "caltech-101"
    image_folder = "101_ObjectCategories"
    section = "Caltech101"
    config = "caltech101"
    ignored = ("BACKGROUND_Google", "Faces_easy")
    class_names = {
        "airplanes": "airplane",
        "Faces": "face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
    }
