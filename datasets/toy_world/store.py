"""Toy images on disk: rendered once into the cache, checked against the committed digests.

``<cache>/toy/<version>/<set>/<split>/<label>/<number>.png``; a set appears under its name at once,
by a rename, so that any number of processes may ask for it together.
"""

import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from dassl.utils import cache_dir, did_you_mean

from .factors import STYLES
from .render import render
from .sets import (
    DEFINITIONS,
    DOMAIN_SHAPES,
    DOMAINS,
    DOMAINS_PER_CLASS,
    DOMAINS_SEED,
    domain_scenes,
)

logger = logging.getLogger(__name__)
_DIGESTS = Path(__file__).with_name("digests.json")
SET_NAMES = (*DEFINITIONS, DOMAINS)


@lru_cache(maxsize=1)
def digests() -> dict[str, str]:
    """Set name -> SHA-256 (hex) of all its pixels and labels, as committed."""
    return json.loads(_DIGESTS.read_text(encoding="utf-8"))


def splits(name: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Render a set: (split or domain, labels (N,), images (N, 64, 64, 3)), one part at a time.

    Raises:
        ValueError: for an unknown name.
    """
    if name == DOMAINS:
        for style, domain in enumerate(STYLES):
            labels = np.repeat(np.arange(len(DOMAIN_SHAPES)), DOMAINS_PER_CLASS)
            rng = np.random.RandomState([DOMAINS_SEED, style])
            yield domain, labels, render(domain_scenes(rng, labels, style))
        return
    if name not in DEFINITIONS:
        raise ValueError(f'"{name}" is not a toy set. {did_you_mean(name, SET_NAMES)}')
    definition = DEFINITIONS[name]
    for part, (split, size) in enumerate(definition.sizes.items()):
        labels = np.repeat(np.arange(len(definition.classnames)), size)
        rng = np.random.RandomState([definition.seed, part])
        yield split, labels, render(definition.scenes(rng, labels))


def digest_of(name: str) -> str:
    """Render a set and return its digest."""
    sha = hashlib.sha256()
    for split, labels, images in splits(name):
        _update(sha, split, labels, images)
    return sha.hexdigest()


def folder_names(name: str) -> tuple[str, ...]:
    """Names of a set's class folders, by label."""
    if name == DOMAINS:
        return DOMAIN_SHAPES
    return tuple(f"{label:02d}" for label in range(len(DEFINITIONS[name].classnames)))


def rendered(name: str) -> Path:
    """The folder of a set; rendered first if it is not in the cache.

    Raises:
        ValueError: for an unknown name.
        RuntimeError: if the pixels are not the committed ones.
    """
    if name not in digests():
        raise ValueError(f'"{name}" is not a toy set. {did_you_mean(name, SET_NAMES)}')
    target = cache_dir() / "toy" / digests()[name][:12] / name
    if target.is_dir():
        return target
    logger.info("Rendering %s into %s (once)", name, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}."))
    try:
        _write(name, part)
        part.chmod(0o755)
        _put_in_place(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _put_in_place(part: Path, target: Path) -> None:
    try:
        os.replace(part, target)
    except OSError:
        if not target.is_dir():  # otherwise another process was faster: the same pixels
            raise


def _write(name: str, folder: Path) -> None:
    """Render, write and check a set."""
    sha = hashlib.sha256()
    classes = folder_names(name)
    for split, labels, images in splits(name):
        _update(sha, split, labels, images)
        for class_folder in classes:
            (folder / split / class_folder).mkdir(parents=True)
        counts = [0] * len(classes)
        for label, image in zip(labels.tolist(), images):
            path = folder / split / classes[label] / f"{counts[label]:04d}.png"
            png = io.BytesIO()  # one write per file
            # the seeds of an image's views come from its bytes: another level moves every number
            Image.fromarray(image).save(png, "PNG", compress_level=1)
            path.write_bytes(png.getvalue())
            counts[label] += 1
    if sha.hexdigest() != digests()[name]:
        raise RuntimeError(
            f"{name} was rendered with other pixels than the committed ones (SHA-256 "
            f"{sha.hexdigest()[:12]}, expected {digests()[name][:12]}): results would not be "
            "comparable. If the definition was changed on purpose, run python "
            "tools/toy_world/show.py --write-digests; otherwise report your NumPy version."
        )


def _update(sha, split: str, labels: np.ndarray, images: np.ndarray) -> None:
    sha.update(split.encode())
    sha.update(labels.astype("<i8").tobytes())
    sha.update(images.tobytes())
