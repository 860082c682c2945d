"""StanfordCars: 196 car models (Krause et al., 2013)."""

from pathlib import Path

from scipy.io import loadmat

from dassl.data.datasets import DATASET_REGISTRY

from .files import Piece
from .records import Record, Splits, split_train_val
from .split_dataset import SplitDataset


@DATASET_REGISTRY.register()
class StanfordCars(SplitDataset):
    """Rebuild: rule V on the devkit's annotations; paths are relative to the dataset folder."""

    dataset_dir = "stanford_cars"
    image_folder = ""
    section = "StanfordCars"
    config = "stanford_cars"

    @classmethod
    def pieces(cls, root: Path) -> list[Piece]:
        folder = root / cls.dataset_dir
        images = [Piece("image folder", (folder / name,)) for name in ("cars_train", "cars_test")]
        return images + super().pieces(root)[1:]

    @classmethod
    def rebuild_pieces(cls, folder: Path) -> list[Piece]:
        def piece(what: str, name: str) -> Piece:
            return Piece(what, (folder / "devkit" / name, folder / name), role="rebuild")

        return [
            piece("training annotations", "cars_train_annos.mat"),
            piece("test annotations with labels", "cars_test_annos_withlabels.mat"),
            piece("class names", "cars_meta.mat"),
        ]

    def rebuild(self, folder: Path) -> Splits:
        pieces = self.rebuild_pieces(folder)
        train_file, test_file, meta_file = (p.require(self.config, self.section) for p in pieces)
        names = [
            year_first(str(name)) for name in loadmat(meta_file, squeeze_me=True)["class_names"]
        ]
        train, val = split_train_val(read_annotations(train_file, "cars_train", names))
        return {"train": train, "val": val, "test": read_annotations(test_file, "cars_test", names)}


def year_first(name: str) -> str:
    """ "AM General Hummer SUV 2000" -> "2000 AM General Hummer SUV"."""
    model, _, year = name.rpartition(" ")
    return f"{year} {model}"


def read_annotations(path: Path, image_folder: str, names: list[str]) -> list[Record]:
    """A devkit file: ``annotations`` with ``fname`` and the 1-based ``class``."""
    annotations = loadmat(path)["annotations"].ravel()
    records = []
    for annotation in annotations:
        label = int(annotation["class"].item()) - 1
        image = str(annotation["fname"].item())
        records.append(Record(f"{image_folder}/{image}", label, names[label]))
    return records
