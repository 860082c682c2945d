"""FGVCAircraft: 100 aircraft variants, with the authors' own split (Maji et al., 2013)."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.text_files import read_lines

from .files import Piece
from .records import SPLITS, Record, Splits
from .split_dataset import SplitDataset


@DATASET_REGISTRY.register()
class FGVCAircraft(SplitDataset):
    """``variants.txt`` gives the labels, ``images_variant_<split>.txt`` the lists."""

    dataset_dir = "fgvc_aircraft"
    section = "FGVCAircraft"
    config = "fgvc_aircraft"

    @classmethod
    def pieces(cls, root: Path) -> list[Piece]:
        folder = root / cls.dataset_dir
        return [Piece("image folder", (folder / cls.image_folder,)), *cls.rebuild_pieces(folder)]

    @classmethod
    def rebuild_pieces(cls, folder: Path) -> list[Piece]:
        names = ["variants.txt", *(f"images_variant_{split}.txt" for split in SPLITS)]
        return [Piece(f"list {name}", (folder / name,)) for name in names]

    def load_splits(self, root: Path) -> Splits:
        """The authors' lists; nothing is drawn, so nothing is saved."""
        for piece in self.pieces(root):
            piece.require(self.config, self.section)
        return self.rebuild(root / type(self).dataset_dir)

    def rebuild(self, folder: Path) -> Splits:
        lines = read_lines(folder / "variants.txt")
        labels = {line.text: label for label, line in enumerate(lines)}
        return {s: read_list(folder / f"images_variant_{s}.txt", labels) for s in SPLITS}


def read_list(path: Path, labels: dict[str, int]) -> list[Record]:
    """Lines ``id name with blanks`` -> records."""
    records = []
    for line in read_lines(path):
        number, name, *_ = [*line.text.split(maxsplit=1), ""]
        if name not in labels:
            raise line.fault("an image number and a variant that variants.txt lists")
        records.append(Record(f"{number}.jpg", labels[name], name))
    return records
