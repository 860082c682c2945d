"""Training views: what a loader process does per view, with and without INPUT.AUGMENT_ON_DEVICE.

BENCHMARK_IMAGES=data/imagenet python tools/benchmark.py views --threads 1
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dassl.data.drawn import DrawnViews, batched
from dassl.data.seeding import seeded
from dassl.features.reader import decode
from dassl.features.views import Augmentation, Pipeline
from tools.benchmarks._images import image_files
from trainers.common.testtime.views import AugMixViews, CropFlip

SIDE = 224
IMAGES = 64
CROP = {"TRANSFORMS": ("random_resized_crop", "random_flip"), "RRCROP_SCALE": (0.08, 1.0)}
DOMAINS = {  # as VL2V-ADiP's training images are seen
    "TRANSFORMS": ("random_resized_crop", "random_flip", "colorjitter", "randomgrayscale"),
    "RRCROP_SCALE": (0.7, 1.0),
    "RGS_P": 0.1,
    **{f"COLORJITTER_{name}": 0.3 for name in "BCSH"},
}


def training(**settings: Any) -> Callable[[bool], Pipeline]:
    """Whether views are drawn -> the pipeline of training images under these keys of INPUT."""
    return lambda on: Augmentation.from_input(SIDE, AUGMENT_ON_DEVICE=on, **settings).train


KINDS: dict[str, tuple[int, Callable[[bool], Pipeline]]] = {  # with the number of views per image
    "few-shot crop": (1, training(**CROP)),
    "VL2V-ADiP": (1, training(**DOMAINS)),
    "TPT, crops": (63, lambda on: CropFlip(SIDE, (0.5, 1.0), is_drawn=on)),
    "TPT, AugMix": (63, lambda on: AugMixViews(SIDE, (0.5, 1.0), is_drawn=on)),
}


def read_views(pipeline: Pipeline, files: list[str], views: int) -> tuple[float, list]:
    """Seconds per view from files to batches, and the batches of up to 64 views."""
    transform, contents = pipeline.build(), [(name, Path(name).read_bytes()) for name in files]
    started, batches, pending = time.perf_counter(), [], []
    for number, content in enumerate(contents):
        image = decode(*content)
        for view in range(views):
            with seeded(number * views + view):
                pending.append(transform(image))
        if len(pending) >= 64:
            batches.append(batched(pending))
            pending = []
    if pending:
        batches.append(batched(pending))
    return (time.perf_counter() - started) / (len(files) * views), batches


def size_of(batch) -> int:
    """Bytes that a batch takes on its way to the device."""
    return (batch.data if isinstance(batch, DrawnViews) else batch).nbytes


def run(args: argparse.Namespace) -> list[dict]:
    """One row per kind of view."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files, what = image_files(8 if args.quick else IMAGES, Path(folder))
        for kind, (views, pipeline) in KINDS.items():
            some = files if views == 1 else files[: max(1, len(files) // 8)]
            times: tuple[list[float], list[float]] = ([], [])
            sizes = []
            for _ in range(args.repeat):
                for on, found in zip((False, True), times, strict=True):
                    seconds, batches = read_views(pipeline(on), some, views)
                    found.append(seconds)
                    sizes.append(sum(map(size_of, batches)) / len(some) / views / 1e3)
            made = time.perf_counter()
            pixels = [batch.on("cpu") for batch in batches]
            made = (time.perf_counter() - made) / sum(map(len, pixels))
            baseline_s, ours_s = map(statistics.median, times)
            rows.append(
                {
                    "name": f"a view as a loader process makes it, {kind}",
                    "baseline_s": baseline_s,
                    "ours_s": ours_s,
                    "speedup": baseline_s / ours_s,
                    "note": f"{len(some)} {what}, {views} views each, decoding included; "
                    f"{sizes[0]:.0f} -> {sizes[1]:.0f} kB; drawn ones take "
                    f"{made * 1e3:.1f} ms more on this CPU as the device",
                }
            )
    return rows
