"""Tiny dataset trees for the tests of the readers: images of 4x4 pixels, few per class."""

import io
import json
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from yacs.config import CfgNode

from dassl.config import get_cfg_default


def image_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_images(folder: Path, paths: Iterable[str]) -> None:
    content = image_bytes()
    for name in paths:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def write_split(path: Path, splits: dict[str, list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(splits), encoding="utf-8")


def pets_tree(root: Path, *, classes: int = 5, per_class: int = 9) -> dict[str, list]:
    """OxfordPets with a split file: 6 train, 2 val, 1 test image per class; labels shuffled."""
    splits = {"train": [], "val": [], "test": []}
    for label in [*range(1, classes), 0]:
        for k in range(per_class):
            split = "train" if k < per_class - 3 else "val" if k < per_class - 1 else "test"
            splits[split].append([f"Breed{label}_{k}.jpg", label, f"breed_{label}"])
    folder = root / "oxford_pets"
    write_images(folder / "images", [entry[0] for part in splits.values() for entry in part])
    write_split(folder / "split_zhou_OxfordPets.json", splits)
    return splits


def make_cfg(root: Path, name: str, **settings: object) -> CfgNode:
    """A config; settings are keys of DATASET, or SEED / SELECT_ON / SKIP_BAD_IMAGES."""
    cfg = get_cfg_default()
    cfg.DATASET.ROOT = str(root)
    cfg.DATASET.NAME = name
    cfg.SEED = settings.pop("SEED", 1)
    cfg.TEST.SELECT_ON = settings.pop("SELECT_ON", "last")
    cfg.DATALOADER.SKIP_BAD_IMAGES = settings.pop("SKIP_BAD_IMAGES", False)
    for key, value in settings.items():
        cfg.DATASET[key] = value
    return cfg


def names(items: Iterable) -> list[str]:
    return [Path(item.impath).name for item in items]
