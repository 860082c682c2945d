"""TaskRes from JPEG files to stored features: images/s against decoding and encoding alone.

The goal is 0.8 of the slower of the two. Files differ in bytes after the end of the image, so that
the feature bank takes none for another; decoding costs what it costs for different images.
"""

import os
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

from clip.model import CLIP
from dassl.data.datasets import Datum
from dassl.features.bank import FeatureBank
from dassl.features.encoder import Encoder, NetworkEncoder
from dassl.features.views import Augmentation
from tools.benchmarks._images import make_jpeg
from tools.benchmarks.gpu._measure import Bench, each, row, start
from tools.benchmarks.mma import build_model
from trainers.common.clip_encoder import ClipEncoder

IMAGES, DIFFERENT = 16_000, 48


def make_tree(folder: Path, count: int) -> list[Datum]:
    """Distinct JPEG files of 500 x 375 pixels."""
    kinds = min(DIFFERENT, count)
    contents = [Path(make_jpeg(folder / f"kind{i}.jpg", i)).read_bytes() for i in range(kinds)]
    items = []
    for i in range(count):
        path = folder / f"{i:06}.jpg"
        path.write_bytes(contents[i % kinds] + i.to_bytes(8, "big"))
        items.append(Datum(str(path)))
    return items


def stand_in(size: int) -> NetworkEncoder:
    """A network that costs next to nothing."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 64))
    return NetworkEncoder(network, (0.5,) * 3, (0.5,) * 3, size=size, name="stand-in")


def rate(bench: Bench, encoder: Encoder, items: list[Datum], root: Path, workers: int) -> float:
    """Images per second from files to stored rows; starting the workers counts."""
    assert encoder.size is not None
    augmentation = Augmentation.from_input(encoder.size)
    started = time.perf_counter()
    bank = FeatureBank(encoder, augmentation, root=root, workers=workers, device=bench.device)
    bank.test(items).all(0)
    bench.wait()
    seconds = time.perf_counter() - started
    bank.reader.close()
    return len(items) / seconds


def compare(bench: Bench) -> None:
    """One row: decoding alone, encoding alone, both."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    clip = CLIP(64, 32, 1, 64, 16, 77, 64, 64, 1, 1) if bench.quick else build_model()
    encoder, side = ClipEncoder(clip.eval()).to(bench.device), clip.visual.input_resolution
    batch = 4 if bench.quick else 256
    pixels = torch.randn(batch, 3, side, side, device=bench.device)
    with torch.no_grad():
        (seconds,) = bench.seconds(partial(encoder.forward, pixels))
    encoded = batch / seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = make_tree(folder, 12 if bench.quick else IMAGES)
        few = items[: max(len(items) // 2, 1)]
        decoded = rate(bench, stand_in(side), few, folder / "decoded", workers)
        seconds_left = bench.left()
        whole = items[: max(1, min(len(items), int(0.6 * seconds_left * min(decoded, encoded))))]
        both = rate(bench, encoder, whole, folder / "both", workers)
    limit = min(decoded, encoded)
    row(
        f"TaskRes, {len(whole)} JPEGs to features, {workers} workers",
        len(whole) / limit,
        len(whole) / both,
        precision=encoder.precision,
        note=f"{both:.0f} img/s; decoding alone {decoded:.0f}, encoding alone {encoded:.0f}; "
        f"{both / limit:.2f} of the slower one",
    )


if __name__ == "__main__":
    bench = start()
    each(bench, [("TaskRes, JPEGs to features", partial(compare, bench))])
