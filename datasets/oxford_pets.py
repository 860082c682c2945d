"""OxfordPets: 37 breeds of cats and dogs (Parkhi et al., CVPR 2012).

Also the home of the static helpers under which CoOp-style dataset files expect them.
"""

import os
import random
from collections.abc import Sequence
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils.text_files import read_lines

from .files import Piece
from .records import SPLITS, Record, Splits, read_split_file, split_train_val, write_split_file
from .split_dataset import SplitDataset, to_items
from .subsampling import subsample_classes


@DATASET_REGISTRY.register()
class OxfordPets(SplitDataset):
    """Rebuild: rule V on ``annotations/trainval.txt`` and ``test.txt``."""

    dataset_dir = "oxford_pets"
    section = "OxfordPets"
    config = "oxford_pets"

    @classmethod
    def rebuild_pieces(cls, folder: Path) -> list[Piece]:
        return [
            Piece(f"annotation list {name}", (folder / "annotations" / name,), role="rebuild")
            for name in ("trainval.txt", "test.txt")
        ]

    def rebuild(self, folder: Path) -> Splits:
        annotations = folder / "annotations"
        train, val = split_train_val(self.read_data(annotations / "trainval.txt"))
        return {"train": train, "val": val, "test": self.read_data(annotations / "test.txt")}

    @staticmethod
    def read_data(path: Path) -> list[Record]:
        """Lines ``stem id species breed-id``, id 1-based; breed = stem without its number."""
        records = []
        for line in read_lines(path):
            if line.text.startswith("#"):
                continue
            stem, number, *_ = [*line.text.split(), ""]
            if not number.isdecimal() or "_" not in stem:
                raise line.fault('"image breed-id species breed-id"')
            breed = stem.rpartition("_")[0].lower()
            records.append(Record(f"{stem}.jpg", int(number) - 1, breed))
        return records

    @staticmethod
    def read_split(filepath: str, path_prefix: str) -> tuple[list[Datum], list[Datum], list[Datum]]:
        """Read a split file into (train, val, test) items below ``path_prefix``."""
        print(f"Reading split from {filepath}")
        splits = read_split_file(Path(filepath))
        train, val, test = (to_items(splits[s], Path(path_prefix)) for s in SPLITS)
        return train, val, test

    @staticmethod
    def save_split(
        train: Sequence[Datum],
        val: Sequence[Datum],
        test: Sequence[Datum],
        filepath: str,
        path_prefix: str,
    ) -> None:
        """Write items as a split file with paths relative to ``path_prefix``."""

        def records(items: Sequence[Datum]) -> list[Record]:
            return [
                Record(
                    Path(os.path.relpath(i.impath, path_prefix)).as_posix(), i.label, i.classname
                )
                for i in items
            ]

        splits = dict(zip(SPLITS, map(records, (train, val, test))))
        write_split_file(splits, Path(filepath))
        print(f"Saved split to {filepath}")

    @staticmethod
    def split_trainval(
        trainval: Sequence[Datum], p_val: float = 0.2
    ) -> tuple[list[Datum], list[Datum]]:
        """Per class, round(p_val n) random items are val; draws from Python's global generator."""
        return split_train_val(trainval, p_val, shuffle=random.shuffle)

    @staticmethod
    def subsample_classes(*args: Sequence[Datum], subsample: str = "all") -> tuple | list:
        """Keep all, base or new classes of several item lists; see ``subsampling``."""
        return subsample_classes(*args, subsample=subsample)
