"""The pre-rendered pool of training images: shards on disk, memory-mapped while training.

A shard is three arrays beside each other: 64 px bytes, the same images at 32 px (PIL bicubic, as
evaluation resizes them) and the factors. It is made once and put in place atomically, so that any
number of processes can fill one pool together.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.toy_world import FACTORS, concatenate, render, sample_scenes

SHARD = 10_000
STYLE_MIX = (0.60, 0.15, 0.13, 0.12)
PLAIN_RATE = 0.20
EASY_BACKGROUNDS = (0, 1, 5, 9)  # wall, sky, snow, night
KINDS = {"easy": 1_000, "full": 2_000, "held_out": 3_000}  # first seed of each kind
FACTOR_NAMES = tuple(FACTORS)


def sample_easy(rng: np.random.RandomState, count: int):
    """Photos of centred, larger objects on quiet backgrounds, mostly plain, no distractor."""
    fixed = {
        "style": np.zeros(count, dtype=np.int64),
        "position": np.full(count, 4),
        "size": rng.randint(1, 3, size=count),
        "background": np.array(EASY_BACKGROUNDS)[rng.randint(4, size=count)],
    }
    return sample_scenes(rng, count, fixed=fixed, plain_rate=0.7, distractor_rate=0.0, noise=0.022)


def sample_full(rng: np.random.RandomState, count: int):
    """The whole world, with noise of several strengths."""
    half = count // 2
    quiet = sample_scenes(rng, half, plain_rate=PLAIN_RATE, style_mix=STYLE_MIX)
    noisy = sample_scenes(rng, count - half, plain_rate=PLAIN_RATE, style_mix=STYLE_MIX, noise=0.07)
    return concatenate([quiet, noisy])


def resize(images: np.ndarray, side: int = 32) -> np.ndarray:
    """(N, 64, 64, 3) bytes -> (N, side, side, 3) bytes, as torchvision resizes PIL images."""
    out = np.empty((len(images), side, side, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        out[i] = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    return out


def _save(path: Path, array: np.ndarray) -> None:
    part = path.with_suffix(f".{os.getpid()}.tmp")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)


def make_shard(folder: Path, kind: str, index: int) -> None:
    """Render shard ``index`` of a kind unless it is there."""
    stem = folder / f"{kind}_{index:03d}"
    if stem.with_name(stem.name + "_factors.npy").exists():
        return
    rng = np.random.RandomState(KINDS[kind] + index)
    sample = sample_easy if kind == "easy" else sample_full
    scenes = sample(rng, SHARD)
    images = render(scenes)
    factors = np.stack([getattr(scenes, name) for name in FACTOR_NAMES], axis=1).astype(np.int8)
    _save(stem.with_name(stem.name + "_64.npy"), images)
    _save(stem.with_name(stem.name + "_32.npy"), resize(images))
    _save(stem.with_name(stem.name + "_factors.npy"), factors)  # last: marks the shard as whole


class Pool:
    """The shards of one kind that exist now, as memory-mapped arrays.

    Args:
        folder: where the shards lie.
        kind: a key of ``KINDS``.
        side: 32 or 64.
    """

    def __init__(self, folder: Path, kind: str, side: int):
        self.folder, self.kind, self.side = Path(folder), kind, side
        self.images: list[np.ndarray] = []
        self.factors = np.zeros((0, len(FACTOR_NAMES)), dtype=np.int8)
        self.refresh()

    def __len__(self) -> int:
        return len(self.factors)

    def refresh(self) -> None:
        """Take in shards that have appeared since."""
        parts = [self.factors]
        while True:
            stem = f"{self.kind}_{len(self.images):03d}"
            marker = self.folder / f"{stem}_factors.npy"
            if not marker.exists():
                break
            self.images.append(np.load(self.folder / f"{stem}_{self.side}.npy", mmap_mode="r"))
            parts.append(np.load(marker))
        self.factors = np.concatenate(parts)

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(count, side, side, 3) bytes and (count, 7) factors, with replacement."""
        return self.take(rng.integers(len(self), size=count))

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images and factors of the given rows."""
        images = np.stack([self.images[r // SHARD][r % SHARD] for r in rows])
        return images, self.factors[rows].astype(np.int64)


def make_pool(folder: Path, *, shards: int, workers: int) -> None:
    """Render what is missing of a pool; ``shards`` shards show the whole world."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [("held_out", 0), ("easy", 0), ("easy", 1), *(("full", i) for i in range(shards))]
    with ProcessPoolExecutor(workers) as executor:
        for future in [executor.submit(make_shard, folder, *job) for job in jobs]:
            future.result()
