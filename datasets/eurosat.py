"""EuroSAT: 10 kinds of land use seen by Sentinel-2 (Helber et al., 2019)."""

from dassl.data.datasets import DATASET_REGISTRY

from .split_dataset import FolderSplitDataset


@DATASET_REGISTRY.register()
class EuroSAT(FolderSplitDataset):
    """Rebuild: rule P with CLIP's names of the classes."""

    dataset_dir = "eurosat"
    image_folder = "2750"
    section = "EuroSAT"
    config = "eurosat"
    class_names = {
        "AnnualCrop": "Annual Crop Land",
        "Forest": "Forest",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "Highway": "Highway or Road",
        "Industrial": "Industrial Buildings",
        "Pasture": "Pasture Land",
        "PermanentCrop": "Permanent Crop Land",
        "Residential": "Residential Buildings",
        "River": "River",
        "SeaLake": "Sea or Lake",
    }
