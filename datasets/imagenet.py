"""ImageNet: 1000 classes of ILSVRC 2012 (Deng et al., CVPR 2009; Russakovsky et al., IJCV 2015)."""

import logging
from collections import OrderedDict
from pathlib import Path

from yacs.config import CfgNode

from dassl.config import Condition
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from .conditions import ONE_DOMAIN
from .files import Piece, data_root, require_images
from .imagenet_classes import default_classnames, imagenet_wnids
from .listings import list_images
from .records import Record, fingerprint
from .sampling import Draw, draw_from, items_digest, labelled_images, selects_on_val
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
        fewshot_digest, labelled_images: as in ``SplitDataset``.
    """

    dataset_dir = "imagenet"
    section = "ImageNet"
    config = "imagenet"

    @classmethod
    def conditions(cls) -> list[Condition]:
        return ONE_DOMAIN

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
        train, test, *val = subsample_classes(
            *(to_items(records, images) for records in lists), subsample=subsample
        )
        super().__init__(train_x=train, val=val[0] if val else test, test=test)
        self.class_ids = [ids[label] for label in kept]
        self.imagenet_ids = imagenet_wnids()
        self.fewshot_digest = items_digest(train, images)
        self.labelled_images = labelled_images(cfg, train, val[0] if val else None)

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
        names: OrderedDict[str, str] = OrderedDict()
        for number, line in enumerate(Path(text_file).read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            wnid, _, name = line.strip().partition(" ")
            if not name:
                raise ValueError(f'{text_file}, line {number}: "{line}" is not "wnid class name".')
            names[wnid] = name.strip()
        return names


def name_files(root: Path, folder: str) -> tuple[Path, ...]:
    """Where class names are looked for: the dataset's own file, then ImageNet's."""
    return tuple(root / name / "classnames.txt" for name in dict.fromkeys((folder, "imagenet")))


def classnames_of(root: Path, folder: str) -> dict[str, str]:
    """Id -> class name for the dataset in ``folder``, from a file or from open_clip_torch."""
    for path in name_files(root, folder):
        if path.exists():
            return ImageNet.read_classnames(str(path))
    looked = " and ".join(str(path) for path in name_files(root, folder))
    print(f"No class names in {looked}: using those of open_clip_torch (the same list)")
    return default_classnames()


def folder_records(
    listing: dict[str, list[str]], ids: list[str], names: dict[str, str], *, prefix: str = ""
) -> list[Record]:
    """Listing of id folders -> records, classes in the order of ``ids``."""
    require_names(ids, names)
    start = f"{prefix}/" if prefix else ""
    return [
        Record(start + path, label, names[wnid])
        for label, wnid in enumerate(ids)
        for path in listing.get(wnid, ())
    ]


def require_names(ids: list[str], names: dict[str, str]) -> None:
    """Raise a ValueError if an id has no class name."""
    missing = [wnid for wnid in ids if wnid not in names]
    if missing:
        raise ValueError(
            f"The class {missing[0]} ({len(missing)} such) is in no line of classnames.txt. Remove "
            "its folder, or complete the file (python tools/check_data.py imagenet)."
        )
