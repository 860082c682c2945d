"""Bases of the toy sets: rendered into the cache on first use, then like any other dataset."""

from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DatasetBase

from .conditions import ONE_DOMAIN
from .files import Piece
from .records import Record
from .sampling import Draw, draw_shots
from .split_dataset import to_items
from .subsampling import subsample_classes
from .toy_world.sets import DEFINITIONS
from .toy_world.store import folder_names, rendered


class ToySet(DatasetBase):
    """A toy set with train / val / test splits; DATASET.ROOT is not used.

    Class attributes:
        config: name of the definition and of the dataset config.
    """

    section = "Toy sets"
    config = ""
    conditions = ONE_DOMAIN

    def __init__(self, cfg: CfgNode):
        folder = rendered(self.config)
        self.dataset_dir = self.image_dir = str(folder)
        self.split_fewshot_dir = str(folder / "split_fewshot")
        train, val = draw_shots(
            self.records("train"),
            self.records("val"),
            Draw.from_cfg(cfg),
            Path(self.split_fewshot_dir),
            sample=self.generate_fewshot_dataset,
        )
        train, val, test = subsample_classes(
            *(to_items(records, folder) for records in (train, val, self.records("test"))),
            subsample=cfg.DATASET.SUBSAMPLE_CLASSES,
        )
        super().__init__(train_x=train, val=val, test=test)

    @classmethod
    def pieces(cls, root: Path) -> list[Piece]:
        """Nothing must lie under ``root``: the images are rendered."""
        return []

    @classmethod
    def records(cls, split: str) -> list[Record]:
        """The images of a split, class by class."""
        definition = DEFINITIONS[cls.config]
        return [
            Record(f"{split}/{name}/{number:04d}.png", label, definition.classnames[label])
            for label, name in enumerate(folder_names(cls.config))
            for number in range(definition.sizes[split])
        ]


class ToyVariant(ToySet):
    """A test set with the classes of ``ToyObjects``; behaves as the variants of ImageNet do.

    There are no training images: the training list equals the test list, so that ``classnames``
    exists; nothing trains on it.
    """

    def __init__(self, cfg: CfgNode):
        folder = rendered(self.config)
        self.dataset_dir = self.image_dir = str(folder)
        items = to_items(self.records("test"), folder)
        (items, *_) = subsample_classes(items, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        DatasetBase.__init__(self, train_x=items, test=items)
