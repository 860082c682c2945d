"""Images to time with: a folder of one's own, or photograph-like JPEGs made here."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from dassl.utils.image_files import IMAGE_SUFFIXES, LeftOut, images_below

VARIABLE = "BENCHMARK_IMAGES"
MADE_SIZE = (500, 375)  # width, height in pixels: the median of ImageNet's photographs


def image_files(count: int, folder: Path) -> tuple[list[str], str]:
    """Files to read, and what they are.

    Args:
        count: how many, at most.
        folder: where to make images if $BENCHMARK_IMAGES names no folder.

    Raises:
        FileNotFoundError: if $BENCHMARK_IMAGES holds no images.
    """
    if not os.environ.get(VARIABLE):
        return [make_jpeg(folder / f"{i:05}.jpg", i) for i in range(count)], "made JPEGs 500x375"
    root = Path(os.environ[VARIABLE])
    files = images_below(root, LeftOut())
    if not files:
        raise FileNotFoundError(
            f"{VARIABLE} is {root}, where no *{', *'.join(IMAGE_SUFFIXES)} lies."
        )
    return files[:: max(1, len(files) // count)][:count], f"images of {root.name}"


def make_jpeg(path: Path, seed: int) -> str:
    """Write a JPEG with the detail of a photograph; returns its path."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", MADE_SIZE)
    for cells, share in ((4, 1.0), (24, 0.4), (120, 0.2)):
        noise = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize(MADE_SIZE, Image.Resampling.BICUBIC)
        image = Image.blend(image, layer, share)
    image.save(path, quality=90)
    return str(path)
