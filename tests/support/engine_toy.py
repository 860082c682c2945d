"""A tiny trainer and image dataset for the tests of the engine; draws from every random state."""

from __future__ import annotations

import multiprocessing
import os
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from yacs.config import CfgNode

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer

CLASSNAMES = ("red", "green", "blue")


def make_images(root: Path, *, per_class: int = 4, size: int = 12) -> Path:
    """Write noisy one-coloured PNGs to <root>/colours/<split>/<class>_<i>.png."""
    rng = np.random.RandomState(0)
    for split in ("train", "val", "test"):
        folder = root / "colours" / split
        folder.mkdir(parents=True, exist_ok=True)
        for label, name in enumerate(CLASSNAMES):
            for i in range(per_class):
                pixels = rng.randint(0, 160, size=(size, size, 3))
                pixels[..., label] += 60
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}_{i}.png")
    return root


@DATASET_REGISTRY.register()
class EngineColours(DatasetBase):
    """The images of ``make_images``."""

    def __init__(self, cfg: CfgNode) -> None:
        splits = {}
        for split in ("train", "val", "test"):
            files = sorted((Path(cfg.DATASET.ROOT) / "colours" / split).glob("*.png"))
            splits[split] = [
                Datum(
                    impath=str(path),
                    label=CLASSNAMES.index(path.stem.split("_")[0]),
                    classname=path.stem.split("_")[0],
                )
                for path in files
            ]
        super().__init__(train_x=splits["train"], val=splits["val"], test=splits["test"])


@TRAINER_REGISTRY.register()
class EngineToy(TrainerX):
    """A linear classifier with dropout and noise from Python's and NumPy's generators."""

    def build_model(self) -> None:
        height, width = self.cfg.INPUT.SIZE
        layer = nn.Linear(3 * height * width, self.num_classes)
        self.model = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), layer)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.noise = torch.Generator().manual_seed(3)
        self.steps = 0
        self.register_model("toy", self.model, self.optim, self.sched)

    def forward_backward(self, batch: dict) -> dict[str, float]:
        images, labels, _ = self.parse_batch_train(batch)
        self.steps += 1
        weight = 1 + random.random() + np.random.rand() + torch.rand((), generator=self.noise)
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels) * weight * (1 + self.steps / 100)
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(logits, labels)[0].item()}

    def extra_state(self) -> dict:
        return {"steps": self.steps}

    def load_extra_state(self, state: dict) -> None:
        self.steps = state["steps"]


def make_cfg(root: Path, output: Path, **overrides: object) -> CfgNode:
    """A config for EngineToy on EngineColours; keys with "__" for the dots."""
    cfg = get_cfg_default()
    cfg.VERBOSE = False
    cfg.SEED = 1
    cfg.OUTPUT_DIR = str(output)
    cfg.TRAINER.NAME = "EngineToy"
    cfg.DATASET.NAME, cfg.DATASET.ROOT = "EngineColours", str(root)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
    cfg.INPUT.SIZE = (8, 8)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.LR_SCHEDULER = "adam", 0.01, "cosine"
    cfg.OPTIM.MAX_EPOCH, cfg.OPTIM.WARMUP_EPOCH = 3, 1
    pairs = [(key.replace("__", "."), value) for key, value in overrides.items()]
    cfg.merge_from_list([word for pair in pairs for word in pair])
    cfg.freeze()
    return cfg


def train_once(root: str, output: str, **overrides: object) -> None:
    """One seeded run, as ``train.py`` does it; the body of a process that tests may kill."""
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    # this process has the environment of the fork server, whoever started that
    os.environ["VLTUNE_RESUME_SECONDS"] = "0"
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers
    torch.set_num_threads(1)
    set_random_seed(1)
    build_trainer(make_cfg(Path(root), Path(output), **overrides)).train()
