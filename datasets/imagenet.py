"""ImageNet: 1000 classes of ILSVRC 2012 (Deng et al., CVPR 2009; Russakovsky et al., IJCV 2015)."""

import logging
from collections import OrderedDict
from pathlib import Path

from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from .conditions import ONE_DOMAIN
from .files import Piece, data_root, require_images
from .imagenet_classes import imagenet_wnids
from .imagenet_names import classnames_of, folder_records, name_files, read_classnames
from .listings import list_images
from .records import Record, fingerprint
from .sampling import Draw, draw_from, selects_on_val
from .split_dataset import to_items
from .subsampling import kept_labels, subsample_classes

logger = logging.getLogger(__name__)


@DATASET_REGISTRY.register()
class ImageNet(DatasetBase):
    """``images/{train,val}/<wnid>/``; label = place of the id among the sorted training folders.

    The val folder is the test list and the validation list. A run that selects on validation
    images (TEST.SELECT_ON val) gets a list drawn from the training images that are not shots.

    Attributes:
        class_ids: WordNet id of every label.
        imagenet_ids: the ids of all 1000 classes, in the label order of ImageNet.
    """

    dataset_dir = "imagenet"
    section = "ImageNet"
    config = "imagenet"
    conditions = ONE_DOMAIN

    def __init__(self, cfg: CfgNode):
        root = data_root(cfg.DATASET.ROOT)
        folder = root / type(self).dataset_dir
        self.dataset_dir = str(folder)
        self.image_dir = str(folder / "images")
        self.split_fewshot_dir = str(folder / "split_fewshot")
        for piece in self.pieces(root):
            if piece.role == "needed":
                piece.require(self.config, self.section)
        names = classnames_of(root, type(self).dataset_dir)
        listings = self.list_folders(folder / "images")
        ids = list(listings["train"])
        test = folder_records(listings["val"], ids, names, prefix="val")
        train, val = self._draw(cfg, listings["train"], names)
        images = folder / "images"
        lists = [train, test] if val is None else [train, test, val]
        if not cfg.DATALOADER.SKIP_BAD_IMAGES:
            used = [r.path for r in train]
            require_images(images, used, dataset=self.config, section=self.section)
        subsample = cfg.DATASET.SUBSAMPLE_CLASSES
        kept = kept_labels([r.label for r in train], subsample)
        train_x, tested, *held_out = subsample_classes(
            *(to_items(records, images) for records in lists), subsample=subsample
        )
        super().__init__(train_x=train_x, val=held_out[0] if held_out else tested, test=tested)
        self.class_ids = [ids[label] for label in kept]
        self.imagenet_ids = imagenet_wnids()

    @classmethod
    def pieces(cls, root: Path) -> list[Piece]:
        """What must lie under ``root``."""
        folder = root / cls.dataset_dir
        return [
            Piece("folder of training images", (folder / "images" / "train",)),
            Piece("folder of validation images", (folder / "images" / "val",)),
            Piece(
                "class names (open_clip_torch's otherwise)",
                name_files(root, cls.dataset_dir),
                role="optional",
            ),
        ]

    def list_folders(self, images: Path) -> dict[str, dict[str, list[str]]]:
        """Split ("train", "val") -> class folder -> its images."""
        listings = {}
        for split in ("train", "val"):
            listings[split] = list_images(images / split, dataset=self.config, section=self.section)
        ids = list(listings["train"])
        unknown = sorted(set(listings["val"]) - set(ids))
        if unknown:
            raise ValueError(
                f"{images / 'val'} has the class folder {unknown[0]} ({len(unknown)} such), which "
                f"{images / 'train'} lacks. Is the training folder complete? See DATASETS.md, "
                f"section {self.section}."
            )
        expected = set(imagenet_wnids())
        for split, listing in listings.items():
            lacking = expected - set(listing)
            if lacking:
                logger.warning(
                    "%s lacks %d of the 1000 classes of ImageNet, first %s: labels are places "
                    "among the training folders, and results are not those of ImageNet.",
                    images / split,
                    len(lacking),
                    min(lacking),
                )
        return listings

    def _draw(
        self, cfg: CfgNode, listing: dict[str, list[str]], names: dict[str, str]
    ) -> tuple[list[Record], list[Record] | None]:
        """Training records, and validation records if the run selects on them."""
        selects = selects_on_val(cfg)
        if selects and cfg.DATASET.NUM_SHOTS < 1:
            raise ValueError(
                "TEST.SELECT_ON is val, but ImageNet's validation folder is the test set and "
                "DATASET.NUM_SHOTS -1 trains on every other image. Set DATASET.NUM_SHOTS, or "
                "TEST.SELECT_ON last."
            )

        def records() -> tuple[list[Record], list[Record]]:
            return folder_records(listing, list(listing), names, prefix="train"), []

        if cfg.DATASET.NUM_SHOTS < 1:
            return records()[0], None
        labels = {wnid: label for label, wnid in enumerate(listing)}

        def find(path: str) -> Record | None:
            image = path.removeprefix("train/")
            wnid = image.split("/")[0]
            is_known = path != image and image in listing.get(wnid, ())
            return Record(path, labels[wnid], names[wnid]) if is_known else None

        # 1.28 M records are made only when there is no kept draw
        shots, val = draw_from(
            records,
            fingerprint((wnid, names.get(wnid, ""), *paths) for wnid, paths in listing.items()),
            Draw.from_cfg(cfg, val_from_train=selects),
            Path(self.split_fewshot_dir),
            sample=self.generate_fewshot_dataset,
            finders=(find, lambda path: None),  # ImageNet has no validation list to draw from
        )
        return shots, val if selects else None

    @staticmethod
    def read_classnames(text_file: str) -> "OrderedDict[str, str]":
        """``classnames.txt``, a line ``wnid class name`` per class -> id -> name, in file order."""
        return OrderedDict(read_classnames(Path(text_file)))
