"""SUN397: 397 scene categories (Xiao et al., CVPR 2010)."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.text_files import read_lines

from .files import Piece
from .records import Record, Splits, split_train_val
from .split_dataset import SplitDataset


@DATASET_REGISTRY.register()
class SUN397(SplitDataset):
    """Rebuild: rule V on the first official partition."""

    dataset_dir = "sun397"
    image_folder = "SUN397"
    section = "SUN397"
    config = "sun397"

    @classmethod
    def rebuild_pieces(cls, folder: Path) -> list[Piece]:
        return [
            Piece(f"list {name}", (folder / name, folder / "SUN397" / name), role="rebuild")
            for name in ("ClassName.txt", "Training_01.txt", "Testing_01.txt")
        ]

    def rebuild(self, folder: Path) -> Splits:
        pieces = self.rebuild_pieces(folder)
        class_file, train_file, test_file = (p.require(self.config, self.section) for p in pieces)
        folders = [line.text.strip("/") for line in read_lines(class_file)]
        labels = {folder: label for label, folder in enumerate(folders)}
        train, val = split_train_val(read_list(train_file, labels))
        return {"train": train, "val": val, "test": read_list(test_file, labels)}


def read_list(path: Path, labels: dict[str, int]) -> list[Record]:
    """Lines ``/a/abbey/sun_x.jpg`` -> records; ``labels`` maps class folders to labels."""
    records = []
    for line in read_lines(path):
        image = line.text.replace("\\", "/").lstrip("/")
        folder = image.rpartition("/")[0]
        if folder not in labels:
            raise line.fault(f"an image of a class in ClassName.txt (there is no /{folder})")
        # /a/apartment_building/outdoor -> "outdoor apartment_building"
        name = " ".join(reversed(folder.split("/")[1:]))
        records.append(Record(image, labels[folder], name))
    return records
