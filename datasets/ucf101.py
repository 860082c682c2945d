"""UCF101: 101 human actions, the middle frame of each video (Soomro et al., 2012)."""

import re
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.text_files import read_lines

from .files import Piece
from .records import Record, Splits, split_train_val
from .split_dataset import SplitDataset


@DATASET_REGISTRY.register()
class UCF101(SplitDataset):
    """Rebuild: rule V on the first official train / test list."""

    dataset_dir = "ucf101"
    image_folder = "UCF-101-midframes"
    section = "UCF101"
    config = "ucf101"

    @classmethod
    def rebuild_pieces(cls, folder: Path) -> list[Piece]:
        lists = folder / "ucfTrainTestlist"
        return [
            Piece(f"list {name}", (lists / name,), role="rebuild")
            for name in ("classInd.txt", "trainlist01.txt", "testlist01.txt")
        ]

    def rebuild(self, folder: Path) -> Splits:
        pieces = self.rebuild_pieces(folder)
        class_file, train_file, test_file = (p.require(self.config, self.section) for p in pieces)
        labels = {}
        for line in read_lines(class_file):
            number, name, *_ = [*line.text.split(), ""]
            if not number.isdecimal() or not name:
                raise line.fault('"number action"')
            labels[name] = int(number) - 1
        train, val = split_train_val(read_list(train_file, labels))
        return {"train": train, "val": val, "test": read_list(test_file, labels)}


def split_words(name: str) -> str:
    """ "ApplyEyeMakeup" -> "Apply_Eye_Makeup"."""
    return "_".join(re.findall("[A-Z][^A-Z]*", name))


def read_list(path: Path, labels: dict[str, int]) -> list[Record]:
    """Lines ``Action/v_Action_gXX_cYY.avi [id]`` -> records of the middle frames."""
    records = []
    for line in read_lines(path):
        action, _, video = line.text.split()[0].replace("\\", "/").partition("/")
        if action not in labels or not video:
            raise line.fault("a video of a class in classInd.txt, Action/video.avi")
        name = split_words(action)
        records.append(Record(f"{name}/{Path(video).stem}.jpg", labels[action], name))
    return records
