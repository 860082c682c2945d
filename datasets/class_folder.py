"""Images of one's own in class folders: a few-shot set without a dataset file."""

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY

from .files import Piece, class_folders, hint, images_by_class
from .near_miss import check_split_folders
from .records import (
    SPLITS,
    VAL_FRACTION,
    Record,
    Splits,
    read_split_file,
    split_by_fractions,
    split_train_val,
)
from .split_dataset import SplitDataset

OWN_FOLDERS = ("split_fewshot",)  # what a run writes beside the class folders


@DATASET_REGISTRY.register()
class ClassFolder(SplitDataset):
    """``<class>/*``, or ``train/<class>/*``, ``test/<class>/*`` and, if there, ``val/<class>/*``.

    DATASET.ROOT is that folder itself; a class is called as its folder. Without ``train`` and
    ``test`` every class is split by rule P (half train, a fifth val, the rest test), without
    ``val`` a fifth of the training images is val, or none where a class has fewer than three. The
    split follows from the file names: it is the same on every machine and changes when images are
    added. A ``split.json`` in the format of ``split_zhou_*.json`` goes first.
    """

    dataset_dir = ""
    root_is_the_set = True
    image_folder = ""
    section = "Class folders"
    config = "class_folder"

    @classmethod
    def split_file(cls, root: Path) -> Path:
        return root / "split.json"

    @classmethod
    def pieces(cls, root: Path) -> list[Piece]:
        return [Piece("folder of class folders", (root,))]

    def load_splits(self, root: Path) -> Splits:
        """The split: from ``split.json``, or made from the folders; nothing is written."""
        path = Path(self.split_path)
        return read_split_file(path) if path.is_file() else self.rebuild(Path(self.dataset_dir))

    def rebuild(self, folder: Path) -> Splits:
        names = class_folders(folder, ignored=OWN_FOLDERS)
        if not check_split_folders(folder, names):
            return split_by_fractions(self._images(folder))
        unknown = sorted(set(names) - set(SPLITS))
        if unknown:
            raise ValueError(
                f"{folder} holds train and test beside {', '.join(unknown[:5])}. Put either class "
                f"folders there or train, val and test. {hint(self.config, self.section)}"
            )
        classes = {split: self._images(folder / split) for split in names}
        labels = {name: label for label, name in enumerate(classes["train"])}
        splits = {split: _records(split, classes.get(split, {}), labels) for split in SPLITS}
        fewest = min(len(images) for images in classes["train"].values())
        if "val" not in names and round(fewest * VAL_FRACTION) > 0:
            splits["train"], splits["val"] = split_train_val(splits["train"])
        return splits

    def _images(self, folder: Path) -> dict[str, list[str]]:
        return images_by_class(
            folder, dataset=self.config, section=self.section, ignored=OWN_FOLDERS
        )


def _records(split: str, classes: dict[str, list[str]], labels: dict[str, int]) -> list[Record]:
    """The images of a split, class by class.

    Raises:
        ValueError: a class that ``train`` does not have.
    """
    unknown = sorted(set(classes) - set(labels))
    if unknown:
        raise ValueError(
            f"{split}/ has classes that train/ has not: {', '.join(unknown[:5])}. The class "
            f"folders must have the same names."
        )
    return [
        Record(f"{split}/{path}", labels[name], name)
        for name, paths in classes.items()
        for path in paths
    ]
