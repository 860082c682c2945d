"""Small encoders, images and banks for the tests of the feature bank."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dassl.data.datasets import Datum
from dassl.features.bank import FeatureBank
from dassl.features.encoder import NetworkEncoder
from dassl.features.views import Augmentation
from dassl.utils import file_index as identities

ROOT = Path(__file__).parents[2]
SIZE = 16
TRANSFORMS = ("random_resized_crop", "random_flip", "colorjitter")
AUGMENTATION = Augmentation.from_input(SIZE, TRANSFORMS=TRANSFORMS)
LARGE = Augmentation.from_input(24, TRANSFORMS=TRANSFORMS)


def network(seed: int = 0, dim: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, dim, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def encoder(seed: int = 0, dim: int = 6, mean: float = 0.5) -> NetworkEncoder:
    return NetworkEncoder(network(seed, dim), (mean,) * 3, (0.25,) * 3, size=SIZE)


def save_image(path: Path, seed: int) -> None:
    low = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(low).resize((35, 25), Image.Resampling.BICUBIC).save(path)


def settle(folder: Path) -> None:
    """Make files look as if they had been written a while ago."""
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    time.sleep(identities.TOO_FRESH)


@pytest.fixture
def items(tmp_path) -> list[Datum]:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(11):
        save_image(folder / f"{i:02}.png", i)
    settle(folder)
    return [Datum(str(path), label=i % 3) for i, path in enumerate(sorted(folder.iterdir()))]


@pytest.fixture
def make_bank(tmp_path):
    """A new bank, as another run would make it, over one folder."""

    def make(encoder_=None, augmentation=AUGMENTATION, **options) -> FeatureBank:
        options = {"root": tmp_path / "features", "batch_size": 4, **options}
        return FeatureBank(encoder_ or encoder(), augmentation, **options)

    return make


def segments(bank: FeatureBank, suffix: str) -> list[Path]:
    """Files of a bank's rows or records."""
    return sorted(bank.root.glob(f"*/*/*{suffix}"))
