"""Base of the test sets with ImageNet's classes: V2, Sketch, A and R.

They have no training images: the training list equals the test list, so that ``classnames``
exists; nothing trains on it.
"""

import logging
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DatasetBase

from .conditions import ONE_DOMAIN
from .files import Piece, data_root, images_by_class, require_images
from .imagenet_classes import imagenet_wnids, variant_wnids
from .imagenet_names import classnames_of, folder_records, name_files
from .records import Record
from .split_dataset import to_items
from .subsampling import kept_labels, subsample_classes

logger = logging.getLogger(__name__)


class ImageNetVariant(DatasetBase):
    """``<dataset_dir>/<image_folder>/<wnid>/``; label = place among the sorted folders.

    Attributes:
        class_ids: WordNet id of every label.
        imagenet_ids: the ids of all 1000 classes, in the label order of ImageNet.
    """

    image_folder = "images"
    section = ""
    config = ""
    conditions = ONE_DOMAIN

    def __init__(self, cfg: CfgNode):
        root = data_root(cfg.DATASET.ROOT)
        images = root / type(self).dataset_dir / self.image_folder
        for piece in self.pieces(root):
            if piece.role == "needed":
                piece.require(self.config, self.section)
        names = classnames_of(root, type(self).dataset_dir)
        self.dataset_dir = str(root / type(self).dataset_dir)
        self.image_dir = str(images)
        records, ids = self.read_records(images, names)
        if not cfg.DATALOADER.SKIP_BAD_IMAGES:
            used = [r.path for r in records]
            require_images(images, used, dataset=self.config, section=self.section)
        subsample = cfg.DATASET.SUBSAMPLE_CLASSES
        kept = kept_labels([r.label for r in records], subsample)
        (items, *_) = subsample_classes(to_items(records, images), subsample=subsample)
        super().__init__(train_x=items, test=items)
        self.class_ids = [ids[label] for label in kept]
        self.imagenet_ids = imagenet_wnids()

    @classmethod
    def pieces(cls, root: Path) -> list[Piece]:
        """What must lie under ``root``."""
        return [
            Piece("image folder", (root / cls.dataset_dir / cls.image_folder,)),
            Piece(
                "class names (open_clip_torch's otherwise)",
                name_files(root, cls.dataset_dir),
                role="optional",
            ),
        ]

    def read_records(self, images: Path, names: dict[str, str]) -> tuple[list[Record], list[str]]:
        """All records, and the id of every label."""
        listing = images_by_class(images, dataset=self.config, section=self.section)
        ids = list(listing)
        expected = set(variant_wnids(self.config))
        if set(ids) != expected:
            logger.warning(
                "%s has %d class folders, of which %d are classes of %s (it has %d): labels are "
                "places among the folders that are there.",
                images,
                len(ids),
                len(expected & set(ids)),
                type(self).__name__,
                len(expected),
            )
        return folder_records(listing, ids, names), ids
