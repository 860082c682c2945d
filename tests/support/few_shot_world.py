"""A tiny image set and backbone for the tests of methods on frozen features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from yacs.config import CfgNode

from clip.model import build_clip
from dassl.config import get_cfg_default, merge_declared
from dassl.config.pixels import leave_open
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, build_trainer
from golden_checks.tiny_clip import torch_state_dict

NAMES = ("red_square", "green square", "blue square")
SHADES = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


@DATASET_REGISTRY.register()
class FewShotSquares(DatasetBase):
    """Noisy squares of three colours; the shots lie in no particular order."""

    def __init__(self, cfg: CfgNode) -> None:
        root = Path(cfg.DATASET.ROOT)
        splits = {}
        for split in ("train", "val", "test"):
            files = sorted((root / split).glob("*.png"))
            labels = [int(path.stem.split("_")[1]) for path in files]
            splits[split] = [
                Datum(str(path), label, classname=NAMES[label])
                for path, label in zip(files, labels, strict=True)
            ]
        super().__init__(train_x=splits["train"], val=splits["val"], test=splits["test"])


def make_world(root: Path, *, shots: int = 4) -> Path:
    """Images below ``root`` and the tiny backbone as ``root/tiny.pt``."""
    rng = np.random.RandomState(0)
    for split, count in (("train", shots), ("val", 3), ("test", 5)):
        (root / split).mkdir(parents=True)
        for i in range(count):
            for label, shade in enumerate(SHADES):
                pixels = np.array(shade) + rng.randint(-40, 40, size=(36, 36, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(root / split / f"{i}_{label}.png")
    torch.save(torch_state_dict("tiny_vit"), root / "tiny.pt")
    return root


def make_cfg(root: Path, trainer: str, output: Path, *pairs: object) -> CfgNode:
    """The config of a short run; ``pairs`` are KEY, VALUE, ..."""
    cfg = get_cfg_default()
    leave_open(cfg)
    merge_declared(cfg, TRAINER_REGISTRY.get(trainer).default_cfg())
    cfg.TRAINER.NAME, cfg.SEED, cfg.OUTPUT_DIR = trainer, 1, str(output)
    cfg.DATASET.NAME, cfg.DATASET.ROOT = "FewShotSquares", str(root)
    cfg.MODEL.BACKBONE.NAME = str(root / "tiny.pt")
    cfg.INPUT.TRANSFORMS, cfg.INPUT.RRCROP_SCALE = ["random_resized_crop"], (0.5, 1.0)
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 0, 8
    cfg.OPTIM.NAME, cfg.OPTIM.LR_SCHEDULER, cfg.OPTIM.MAX_EPOCH = "adamw", "cosine", 2
    cfg.OPTIM.STEP_PER, cfg.TRAIN.VIEWS, cfg.TRAIN.NUM_VIEWS = "batch", "bank", 2
    cfg.merge_from_list([str(v) if not isinstance(v, str) else v for v in pairs])
    return cfg


def make_trainer(root: Path, trainer: str, output: Path, *pairs: object):
    """A trainer, built."""
    return build_trainer(make_cfg(root, trainer, output, *pairs))


def tiny_clip():
    """The tiny backbone in memory."""
    return build_clip(torch_state_dict("tiny_vit"))
