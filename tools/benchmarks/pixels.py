"""Evaluating from pixels: the feature bank, against DataLoader + torchvision + open_clip.

The same random weights, images and number of worker processes on both sides; the time includes
starting the workers. The features of both must agree.

    BENCHMARK_IMAGES=data/pacs python tools/benchmark.py pixels
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clip.open_clip_models import convert
from dassl.data.datasets import Datum
from dassl.features.bank import FeatureBank
from dassl.features.views import Augmentation
from tools.benchmarks._images import image_files
from trainers.common.clip_encoder import ClipEncoder

WORKERS = 2
BATCH = 64
TOLERANCE = 1e-4  # of the largest feature
MODELS = {"ViT-S-32": 640, "ViT-B-16": 96}  # open_clip's name: number of images


class _Files(Dataset):
    def __init__(self, files: list[str], transform) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tensor:
        return self.transform(Image.open(self.files[i]))


def encode_plainly(model: Any, transform, files: list[str]) -> Tensor:
    """(N, D) features as one evaluates with open_clip."""
    loader = DataLoader(_Files(files, transform), batch_size=BATCH, num_workers=WORKERS)
    return torch.cat([model.encode_image(images) for images in loader])


def encode_by_bank(encoder: ClipEncoder, files: list[str]) -> Tensor:
    """(N, D) features by a new and empty bank, stored as well."""
    items = [Datum(file) for file in files]
    assert encoder.size is not None
    with tempfile.TemporaryDirectory() as root:
        augmentation = Augmentation.from_input(encoder.size)
        bank = FeatureBank(encoder, augmentation, root=root, batch_size=BATCH, workers=WORKERS)
        features = bank.test(items).all(0)
        bank.close()
    return features


@torch.no_grad()
def compare(name: str, files: list[str], repeat: int) -> tuple[float, float, float]:
    """Median seconds of both, timed in turn, and the largest difference of features."""
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms(name)
    encoder = ClipEncoder(convert(model.eval()))
    ways = (
        lambda: encode_plainly(model, transform, files),
        lambda: encode_by_bank(encoder, files),
    )
    times: tuple[list[float], list[float]] = ([], [])
    features = [torch.empty(0), torch.empty(0)]
    for _ in range(repeat):
        for i, encode in enumerate(ways):
            started = time.perf_counter()
            features[i] = encode()
            times[i].append(time.perf_counter() - started)
    difference = float((features[0] - features[1]).abs().max() / features[0].abs().max())
    return statistics.median(times[0]), statistics.median(times[1]), difference


def run(args: argparse.Namespace) -> list[dict]:
    """One row per model.

    Raises:
        RuntimeError: if the features differ.
    """
    rows = []
    for name, count in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            files, what = image_files(count // 10 if args.quick else count, Path(folder))
            baseline_s, ours_s, difference = compare(name, files, args.repeat)
        if difference > TOLERANCE:
            raise RuntimeError(f"{name}: features differ by {difference:.2g} of the largest.")
        speeds = f"{len(files) / baseline_s:.1f} -> {len(files) / ours_s:.1f} images/s"
        rows.append(
            {
                "name": f"evaluate from pixels, {name}, {WORKERS} workers",
                "baseline_s": baseline_s,
                "ours_s": ours_s,
                "speedup": baseline_s / ours_s,
                "note": f"{speeds}; {len(files)} {what}; difference {difference:.0e}",
            }
        )
    return rows
