"""Base of the few-shot sets that have a train / val / test split (``split_zhou_<Class>.json``).

Order of work, as in CoOp's dataset files: read or rebuild the split, draw the shots over all
classes (train first, then val), then keep base or new classes of all lists together.
"""

import logging
import os
from abc import abstractmethod
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DatasetBase, Datum

from .conditions import ONE_DOMAIN
from .files import Piece, data_root, images_by_class, require_images
from .records import Record, Splits, read_split_file, split_by_fractions, write_split_file
from .sampling import Draw, draw_shots
from .subsampling import subsample_classes

logger = logging.getLogger(__name__)

MIRROR_NOTE = (
    "Sources of the published split files: DATASETS.md, section Split files, few-shot draws, class "
    "subsets."
)


def to_items(records: list[Record], folder: Path) -> list[Datum]:
    """Records -> Datum items below ``folder``."""
    start = str(folder) + os.sep
    return [
        Datum(start + r.path.replace("/", os.sep), label=r.label, classname=r.classname)
        for r in records
    ]


class SplitDataset(DatasetBase):
    """A dataset with a train / val / test split.

    Class attributes:
        dataset_dir: folder below DATASET.ROOT.
        image_folder: folder of the images below it ("" = the dataset folder itself).
        section: heading in DATASETS.md.
        config: name of the dataset config, as check_data.py takes it.
    """

    image_folder = "images"
    section = ""
    config = ""
    conditions = ONE_DOMAIN

    def __init__(self, cfg: CfgNode):
        root = data_root(cfg.DATASET.ROOT)
        folder = root / type(self).dataset_dir
        self.dataset_dir = str(folder)
        self.image_dir = str(folder / self.image_folder)
        self.split_path = str(self.split_file(root))
        self.split_fewshot_dir = str(self.draws_folder(folder))
        splits = self.load_splits(root)
        draw = Draw.from_cfg(cfg)
        train, val = draw_shots(
            splits["train"],
            splits["val"],
            draw,
            Path(self.split_fewshot_dir),
            sample=self.generate_fewshot_dataset,
        )
        lists = {"train": train, "val": val, "test": splits["test"]}
        images = Path(self.image_dir)
        if not cfg.DATALOADER.SKIP_BAD_IMAGES:
            used = [r.path for records in lists.values() for r in records]
            require_images(images, used, dataset=self.config, section=self.section)
        train, val, test = subsample_classes(
            *(to_items(records, images) for records in lists.values()),
            subsample=cfg.DATASET.SUBSAMPLE_CLASSES,
        )
        super().__init__(train_x=train, val=val, test=test)

    @classmethod
    def split_file(cls, root: Path) -> Path:
        """Where the split file is looked for."""
        return root / cls.dataset_dir / f"split_zhou_{cls.__name__}.json"

    @classmethod
    def draws_folder(cls, folder: Path) -> Path:
        """Where few-shot draws are kept."""
        return folder / "split_fewshot"

    @classmethod
    def pieces(cls, root: Path) -> list[Piece]:
        """What must lie under ``root``: images, the split file, what a rebuild reads."""
        folder = root / cls.dataset_dir
        return [
            Piece("image folder", (folder / cls.image_folder,)),
            Piece("published split file", (cls.split_file(root),), role="split"),
            *cls.rebuild_pieces(folder),
        ]

    @classmethod
    def rebuild_pieces(cls, folder: Path) -> list[Piece]:
        """Files that rebuilding the split reads besides the images; none by default."""
        return []

    def load_splits(self, root: Path) -> Splits:
        """The split: from its file, or rebuilt and then saved."""
        Piece("image folder", (Path(self.image_dir),)).require(self.config, self.section)
        path = Path(self.split_path)
        if path.exists():
            print(f"Reading split from {path}")
            return read_split_file(path)
        folder = root / type(self).dataset_dir
        try:
            for piece in self.rebuild_pieces(folder):
                piece.require(self.config, self.section)
        except FileNotFoundError as err:
            raise FileNotFoundError(
                f"There is no split file {path}, and it cannot be rebuilt: {err} {MIRROR_NOTE}"
            ) from err
        splits = self.rebuild(folder)
        print(
            f"Rebuilt {path.name}: it is not the published split, accuracies will differ a little"
        )
        try:
            write_split_file(splits, path)
        except OSError as err:
            logger.warning("The rebuilt split could not be saved as %s (%s).", path, err)
        return splits

    @abstractmethod
    def rebuild(self, folder: Path) -> Splits:
        """Make the split from what the dataset's authors publish; ``folder`` is dataset_dir."""


class FolderSplitDataset(SplitDataset):
    """A set whose split is rebuilt from its class folders alone (rule P)."""

    ignored: tuple[str, ...] = ()
    class_names: dict[str, str] = {}

    def rebuild(self, folder: Path) -> Splits:
        classes = images_by_class(
            Path(self.image_dir), dataset=self.config, section=self.section, ignored=self.ignored
        )
        return split_by_fractions(classes, names=self.class_names)
