"""An epoch of TaskRes from stored views, against fresh views; and what a bank costs in memory.

Shapes of ViT-B/16 with random weights, 16 shots of 100 classes, 10 stored views per image. A fresh
epoch is timed on a sample of the images and scaled (said in the note). The stored rows come from a
small stand-in network of the same width: reading them costs the same whatever made them.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clip.model import CLIP
from dassl.data.datasets import Datum
from dassl.features.bank import FeatureBank
from dassl.features.encoder import NetworkEncoder
from dassl.features.views import Augmentation
from tools.benchmarks._images import image_files
from trainers.common.clip_encoder import ClipEncoder
from trainers.common.feature_trainer import FeatureLoader, epoch_generator
from trainers.taskres import TaskResidual, TaskResSettings

SHOTS, CLASSES, VIEWS, DIM, BATCH = 16, 100, 10, 512, 256
SAMPLE = 64  # images of a fresh epoch that are timed
SMALL = 32  # pixels, of the stand-in's images and input
TRAIN = {"TRANSFORMS": ("random_resized_crop", "random_flip"), "RRCROP_SCALE": (0.5, 1.0)}
MEMORY_IMAGES, MEMORY_DIM, MEMORY_VIEWS = 50, 16384, (20, 400)  # 65 MB and 1.3 GB of rows


def vit_b16() -> CLIP:
    """The image tower of ViT-B/16 with random weights, a text tower of one block."""
    torch.manual_seed(0)
    return CLIP(DIM, 224, 12, 768, 16, 77, 512, 512, 8, 1).eval().requires_grad_(False)


def stand_in(dim: int) -> NetworkEncoder:
    """A network that costs next to nothing and returns `dim` values."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, dim))
    return NetworkEncoder(network, (0.5,) * 3, (0.5,) * 3, size=SMALL, name="stand-in")


def small_images(folder: Path, count: int) -> list[Datum]:
    """Distinct images of SMALL x SMALL pixels, SHOTS per class."""
    generator, items = np.random.default_rng(0), []
    for i in range(count):
        path = folder / f"small-{i:05}.png"
        Image.fromarray(generator.integers(0, 256, (SMALL, SMALL, 3), dtype=np.uint8)).save(path)
        items.append(Datum(str(path), label=i // SHOTS))
    return items


class Head:
    """TaskRes with its optimiser."""

    def __init__(self, clip: CLIP) -> None:
        torch.manual_seed(0)
        self.clip = clip
        self.method = TaskResidual(torch.randn(CLASSES, DIM), TaskResSettings())
        self.optimizer = torch.optim.Adam(self.method.parameters(), lr=2e-3)

    def step(self, raw: Tensor, labels: Tensor) -> None:
        """One optimiser step on raw features (B, D)."""
        loss = self.method.losses(self.clip, raw, labels)["loss"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def epoch(self, loader: FeatureLoader) -> None:
        """One pass."""
        for batch in loader:
            self.step(batch["features"], batch["label"])


def stored_loader(bank: FeatureBank, items: list[Datum]) -> FeatureLoader:
    """Batches of one drawn view per image and epoch, as FeatureTrainer makes them."""

    def open_epoch(epoch: int) -> Callable[[Tensor], Tensor]:
        stored = bank.train(items, views=VIEWS)
        views = torch.randint(VIEWS, (len(items),), generator=epoch_generator(1, epoch, stream=1))
        return lambda rows: stored.rows(rows, view=views[rows])

    return FeatureLoader(items, open_epoch, batch_size=BATCH, shuffle_seed=1)


def seconds(function: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def epochs(args: argparse.Namespace, folder: Path) -> list[dict]:
    """A fresh epoch beside a bank epoch; opening a filled bank beside filling it."""
    clip = vit_b16()
    items, head = small_images(folder, SHOTS * CLASSES), Head(clip)
    paths, what = image_files(8 if args.quick else SAMPLE, folder)
    sample = [Datum(path) for path in paths]
    fresh_bank = FeatureBank(ClipEncoder(clip), Augmentation.from_input(224, **TRAIN), root=folder)
    augmentation = Augmentation.from_input(SMALL, **TRAIN)

    def bank() -> FeatureBank:
        return FeatureBank(stand_in(DIM), augmentation, root=folder / "bank")

    filled = seconds(lambda: bank().train(items, views=VIEWS))
    opened = statistics.median(
        seconds(lambda: bank().train(items, views=VIEWS)) for _ in range(args.repeat)
    )
    loader = stored_loader(bank(), items)
    head.epoch(loader)  # warms up
    ours = statistics.median(seconds(lambda: head.epoch(loader)) for _ in range(args.repeat))
    encode = statistics.median(
        seconds(partial(fresh_bank.fresh, sample, seed=1, epoch=i)) for i in range(args.repeat)
    )
    scale = len(items) / len(sample)
    return [
        {
            "name": f"TaskRes epoch, {SHOTS} shots x {CLASSES} classes, ViT-B/16: fresh, bank",
            "baseline_s": encode * scale + ours,
            "ours_s": ours,
            "speedup": (encode * scale + ours) / ours,
            "note": f"fresh: {len(sample)} of {len(items)} images timed ({what}) and scaled",
        },
        {
            "name": f"bank of {VIEWS} views x {len(items)} images: filling, finding it again",
            "baseline_s": filled,
            "ours_s": opened,
            "speedup": filled / opened,
            "note": "filled by a stand-in network on 32-pixel images; finding reads no pixel",
        },
    ]


def memory_worker(folder: Path, views: int) -> None:
    """Fill a bank, read it all in batches, print the peak memory in MiB."""
    torch.set_num_threads(1)
    items = [Datum(str(path)) for path in sorted(folder.glob("small-*.png"))]
    root = folder / f"memory-{views}"
    augmentation = Augmentation.from_input(SMALL, **TRAIN)
    bank = FeatureBank(stand_in(MEMORY_DIM), augmentation, root=root, batch_size=64)
    stored = bank.train(items, views=views)
    for view in range(views):
        stored.rows(range(len(items)), view)
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent's peak, too
    print(int(status.split("VmHWM:")[1].split()[0]) // 1024)


def memory(args: argparse.Namespace, folder: Path) -> list[dict]:
    """Peak memory of filling and reading a small and a large bank, in processes of their own."""
    small_images(folder, MEMORY_IMAGES)
    few, many = (views // (10 if args.quick else 1) for views in MEMORY_VIEWS)
    peaks = {}
    for views in (few, many):
        command = [sys.executable, "-m", __name__, str(folder), str(views)]
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
        peaks[views] = int(done.stdout.split()[-1])
    sizes = {views: views * MEMORY_IMAGES * MEMORY_DIM * 4 / 2**20 for views in peaks}
    return [
        {
            "name": "peak memory of filling and reading a bank (no times)",
            "baseline_s": None,
            "ours_s": None,
            "speedup": None,
            "note": ", ".join(f"{sizes[v]:.0f} MiB of rows: peak {peaks[v]} MiB" for v in peaks),
        }
    ]


def run(args: argparse.Namespace) -> list[dict]:
    """All rows."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        rows = epochs(args, Path(one))
        return rows + (memory(args, Path(two)) if sys.platform == "linux" else [])


if __name__ == "__main__":
    memory_worker(Path(sys.argv[1]), int(sys.argv[2]))
