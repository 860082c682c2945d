"""A made-up dataset and backbone on which every trainer runs in seconds."""

import importlib
import io
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dassl.config import get_cfg_default, never
from dassl.config.pixels import leave_open
from dassl.config.recipes import resolve
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import load_checkpoint, set_random_seed, write_checkpoint
from datasets.conditions import ONE_DOMAIN
from datasets.subsampling import subsample_classes
from golden_checks import tiny_clip

importlib.import_module("trainers")  # registers every trainer

CLASSNAMES = ("golden_retriever", "red circle", "Boeing 747")
SPLITS = {"train": 4, "val": 2, "test": 3}  # images per class


def made_image(split: str, label: int, number: int, *, contrast: int = 120) -> Image.Image:
    """A noisy 40 x 44 image whose brightest channel is its class."""
    rng = np.random.RandomState(1000 * label + 10 * number + len(split))
    pixels = rng.randint(0, 120, size=(44, 40, 3))
    pixels[..., label] += contrast
    return Image.fromarray(pixels.astype(np.uint8))


class MadeUp(DatasetBase):
    """Three classes of noise images under DATASET.ROOT, written where missing."""

    contrast = 120
    names = CLASSNAMES
    conditions = [never("DATASET.VAL_SHOTS", "all validation images are taken"), *ONE_DOMAIN]

    def __init__(self, cfg) -> None:
        splits = {name: self.items(Path(cfg.DATASET.ROOT), name) for name in SPLITS}
        shots = cfg.DATASET.NUM_SHOTS
        if shots > 0:
            kept = self.split_dataset_by_label(splits["train"]).values()
            splits["train"] = [item for items in kept for item in items[:shots]]
        kept = subsample_classes(*splits.values(), subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
        splits = dict(zip(splits, kept, strict=True))
        super().__init__(train_x=splits["train"], val=splits["val"], test=splits["test"])

    @classmethod
    def items(cls, root: Path, split: str) -> list[Datum]:
        items = []
        for label, name in enumerate(cls.names):
            for number in range(SPLITS[split]):
                path = root / split / f"{label}_{number}.png"
                if not path.is_file():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    made_image(split, label, number, contrast=cls.contrast).save(path)
                items.append(Datum(impath=str(path), label=label, classname=name))
        return items


class Faint(MadeUp):
    """The same with classes that are hard to tell: no method is right about all images."""

    contrast = 8


class OtherNames(Faint):
    """The same under names that no other dataset here has."""

    names = ("cello", "oboe", "viola")


if "MadeUp" not in DATASET_REGISTRY.registered_names():
    for kind in (MadeUp, Faint, OtherNames):
        DATASET_REGISTRY.register(kind)


@cache
def backbone_file(folder: Path, name: str = "tiny_vit", seed: int = 0) -> str:
    """Path of a tiny checkpoint in OpenAI's layout."""
    path = folder / f"{name}{seed or ''}.pt"
    path.write_bytes(_checkpoint(name, seed))
    return str(path)


@cache
def _checkpoint(name: str, seed: int) -> bytes:
    state = tiny_clip.torch_state_dict(name, seed)
    if name == "micro_vit":  # softer than the others: no probability is 0 or 1
        state["logit_scale"].fill_(math.log(10.0))
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


def made_config(trainer: str, folder: Path, *opts, backbone: str = "tiny_vit"):
    """The trainer's toy recipe, cut down to one short epoch on the made-up images."""
    cfg = _base_config(trainer, folder, backbone).clone()
    cfg.merge_from_list(list(opts))
    cfg.freeze()
    return cfg


@cache
def _base_config(trainer: str, folder: Path, backbone: str):
    cfg = get_cfg_default()
    cfg.set_new_allowed(True)
    defaults = getattr(TRAINER_REGISTRY.get(trainer), "default_cfg", None)
    if defaults is not None:
        cfg.merge_from_other_cfg(defaults())
    cfg.set_new_allowed(False)
    leave_open(cfg)
    recipe = resolve(trainer, "toy_objects")
    for file in recipe.files:
        cfg.merge_from_file(str(file))
    cfg.merge_from_list(list(recipe.opts))
    cfg.TRAINER.NAME = trainer
    cfg.DATASET.NAME, cfg.DATASET.ROOT = "MadeUp", str(folder / "images")
    cfg.DATASET.NUM_SHOTS = 4
    cfg.MODEL.BACKBONE.NAME = backbone_file(folder, backbone)
    cfg.OUTPUT_DIR = str(folder / f"out_{trainer}")
    cfg.SEED, cfg.DATALOADER.NUM_WORKERS = 1, 0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.DATALOADER.TEST.BATCH_SIZE = 4, 4
    cfg.OPTIM.MAX_EPOCH = min(cfg.OPTIM.MAX_EPOCH, 1)
    cfg.TRAIN.NUM_VIEWS = 2
    cfg.USE_CUDA = cfg.VERBOSE = False
    return cfg


def without_config(output_dir: str) -> None:
    """Take the config out of a run's checkpoints, as official files have none."""
    for path in Path(output_dir).glob("*/model*.pth.tar*"):
        content = load_checkpoint(path)
        del content["config"]
        write_checkpoint(content, path)


def made_trainer(trainer: str, folder: Path, *opts, backbone: str = "tiny_vit"):
    """A seeded trainer on the made-up images."""
    cfg = made_config(trainer, folder, *opts, backbone=backbone)
    set_random_seed(cfg.SEED)
    return build_trainer(cfg)
