"""OxfordFlowers (Flowers102): 102 flowers of Great Britain (Nilsback & Zisserman, 2008)."""

from pathlib import Path

from scipy.io import loadmat

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import read_json

from .files import Piece
from .records import Splits, split_by_fractions
from .split_dataset import SplitDataset


@DATASET_REGISTRY.register()
class OxfordFlowers(SplitDataset):
    """Rebuild: rule P on ``imagelabels.mat``, names from ``cat_to_name.json``."""

    dataset_dir = "oxford_flowers"
    image_folder = "jpg"
    section = "OxfordFlowers"
    config = "oxford_flowers"

    @classmethod
    def rebuild_pieces(cls, folder: Path) -> list[Piece]:
        return [
            Piece("image labels", (folder / "imagelabels.mat",), role="rebuild"),
            Piece("class names", (folder / "cat_to_name.json",), role="rebuild"),
        ]

    def rebuild(self, folder: Path) -> Splits:
        labels = loadmat(folder / "imagelabels.mat")["labels"].ravel().tolist()  # 1-based
        names_file = folder / "cat_to_name.json"
        names = read_json(names_file)
        classes: dict[str, list[str]] = {str(label): [] for label in sorted(set(labels))}
        missing = [label for label in classes if label not in names]
        if missing:
            raise ValueError(
                f"{names_file} names {len(names)} flowers and lacks {len(missing)} of the labels "
                f"in imagelabels.mat: {', '.join(missing[:5])}{', ...' if missing[5:] else '.'} "
                "Rebuild it: delete it and run python tools/get_data.py oxford_flowers."
            )
        for number, label in enumerate(labels, start=1):
            classes[str(label)].append(f"image_{number:05d}.jpg")
        return split_by_fractions(classes, names=names)
