"""Encoding what is missing: images are decoded once and feed any number of encoders."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dassl.data.drawn import View, batched
from dassl.utils import ranks

from .encoder import Encoder
from .reader import PixelReader, Pixels, Request
from .store import KEY_BYTES, Store, Writer
from .views import Pipeline

CHUNK_VIEWS = 64  # views that a worker makes per task


def view_labels(views: int, seed: int) -> list[str | None]:
    """What seeds the views: None for the test view (views 0), else "seed/view"."""
    if views < 0:
        raise ValueError(f"views is {views}; expected 0 (the test view) or a number of views.")
    return [f"{seed}/{view}" for view in range(views)] if views else [None]


def row_keys(images: np.ndarray, labels: Sequence[str | None]) -> np.ndarray:
    """Keys of rows: digest of the image, xor digest of the label.

    Args:
        images: (N,) of dtype S16.
        labels: V labels.

    Returns:
        (V, N) of dtype S16.
    """
    words = np.ascontiguousarray(images, dtype="S16").view("<u8").reshape(-1, 2)
    masks = [_mask(label) for label in labels]
    keys = np.ascontiguousarray(words[None] ^ np.stack(masks)[:, None])
    return keys.view("S16").reshape(len(labels), len(images))


def _mask(label: str | None) -> np.ndarray:
    if label is None:
        return np.zeros(2, dtype="<u8")
    digest = hashlib.blake2b(label.encode(errors="surrogateescape"), digest_size=KEY_BYTES).digest()
    return np.frombuffer(digest, dtype="<u8")


class Sink(ABC):
    """Collects pixels into batches of one size, encodes them, and keeps the features.

    A GPU encodes a batch while this process collects the next one: the features of a batch are
    asked for when that one is full.

    Args:
        encoder: the network.
        pipeline: the views it wants.
        batch_size: views per forward pass.
    """

    def __init__(self, encoder: Encoder, pipeline: Pipeline, batch_size: int) -> None:
        self.encoder, self.pipeline, self.batch_size = encoder, pipeline, batch_size
        self.encoded = 0
        self._pixels: list[Tensor | View] = []
        self._tags: list = []
        self._under_way: tuple[list, Tensor] | None = None  # tags and features of a batch

    @abstractmethod
    def wanted(self, i: int) -> list[str | None]:
        """Labels of the views to make of image i."""

    @abstractmethod
    def tag(self, i: int, label: str | None, image: bytes) -> object:
        """What ``keep`` gets to know about a view."""

    @abstractmethod
    def keep(self, tags: list, features: Tensor) -> None:
        """Take (n, D) float32 features, on the CPU."""

    def add(self, i: int, label: str | None, answer: Pixels, pixels: Tensor | View) -> None:
        """Take the pixels of a view; encodes whenever a batch is full."""
        self._tags.append(self.tag(i, label, answer.image))
        self._pixels.append(pixels)
        if len(self._pixels) == self.batch_size:
            self._encode()

    def flush(self) -> None:
        """Encode and keep what has been collected.

        Raises:
            RuntimeError: if a feature is infinite or not a number.
        """
        if self._pixels:
            self._encode()
        self._take()

    def _encode(self) -> None:
        """Start encoding a batch; keep the one before."""
        self._take()
        pixels = batched(self._pixels)
        if is_ahead := self.encoder.device.type == "cuda" and torch.cuda.is_available():
            pixels = pixels.pin_memory()  # is copied while this process continues
        self._under_way = self._tags, self.encoder(pixels)
        self._pixels, self._tags = [], []
        if not is_ahead:
            self._take()

    def _take(self) -> None:
        """Wait for the batch under way, if any, and keep its features."""
        if self._under_way is None:
            return
        (tags, on_device), self._under_way = self._under_way, None
        features = on_device.cpu()
        if not features.isfinite().all():
            raise RuntimeError(
                f"The encoder {self.encoder.name} returns features that are infinite or NaN "
                f"(precision {self.encoder.precision}). Check its weights, or use fp32."
            )
        self.keep(tags, features)
        self.encoded += len(features)

    def close(self) -> None:
        """Let go of files; what has not been flushed is dropped."""
        self._pixels, self._tags, self._under_way = [], [], None


class BankSink(Sink):
    """Appends to a store the views that it lacks.

    Attributes:
        rows: the store's rows when ``find`` looked.
        records: (V, N) record numbers of them, -1 where a row is missing.
    """

    def __init__(
        self,
        encoder: Encoder,
        pipeline: Pipeline,
        batch_size: int,
        store: Store,
        labels: Sequence[str | None],
    ) -> None:
        super().__init__(encoder, pipeline, batch_size)
        self.store, self.labels = store, list(labels)
        self._writer = Writer(store)

    def find(self, images: np.ndarray) -> bool:
        """Look the images (N,) up; returns whether every view of every image is there."""
        keys = row_keys(images, self.labels)
        self.records = self.store.locate(keys.reshape(-1)).reshape(keys.shape)
        self.records[:, images == b""] = -1
        self.rows = self.store.rows
        return bool((self.records >= 0).all())

    def wanted(self, i: int) -> list[str | None]:
        missing = np.flatnonzero(self.records[:, i] < 0)
        return [self.labels[view] for view in missing]

    def tag(self, i: int, label: str | None, image: bytes) -> bytes:
        return row_keys(np.array([image], dtype="S16"), [label])[0, 0]

    def keep(self, tags: list, features: Tensor) -> None:
        self._writer.append(np.array(tags, dtype="S16"), features.numpy())

    def close(self) -> None:
        super().close()
        self._writer.close()


class MemorySink(Sink):
    """Keeps one view per image in a tensor.

    Attributes:
        features: (N, D), NaN where nothing came.
    """

    def __init__(
        self,
        encoder: Encoder,
        pipeline: Pipeline,
        batch_size: int,
        labels: Sequence[str],
    ) -> None:
        super().__init__(encoder, pipeline, batch_size)
        self.labels = labels
        self.features = torch.full((len(labels), encoder.dim), torch.nan)

    def wanted(self, i: int) -> list[str | None]:
        return [self.labels[i]]

    def tag(self, i: int, label: str | None, image: bytes) -> int:
        return i

    def keep(self, tags: list, features: Tensor) -> None:
        self.features[tags] = features


def fill(
    reader: PixelReader,
    paths: Sequence[str],
    sinks: Sequence[Sink],
    is_bad: Callable[[Pixels], bool],
) -> dict[str, tuple[bytes, bytes]]:
    """Decode every image once and give each sink the views that it wants.

    Where several processes share a run, each does this for its W-th of the images that are wanted.

    Args:
        reader: reads the images.
        paths: N files.
        sinks: what wants their views.
        is_bad: called for every image; True leaves it out.

    Returns:
        path -> (digest of the content, digest of the file's state) of the images that were read.
    """
    pipelines = list({sink.pipeline.key: sink.pipeline for sink in sinks}.values())
    number = {pipeline.key: i for i, pipeline in enumerate(pipelines)}
    wishes = ranks.every([i for i in range(len(paths)) if any(sink.wanted(i) for sink in sinks)])

    def requests() -> Iterator[Request]:
        for i in wishes:
            views = {(number[s.pipeline.key], label): None for s in sinks for label in s.wanted(i)}
            yield Request(paths[i], tuple(views))

    most = max((len(sink.wanted(i)) for sink in sinks for i in wishes[:1]), default=1)
    answers = reader.read(
        requests(), pipelines, total=len(wishes), chunk_size=max(1, CHUNK_VIEWS // most)
    )
    progress = tqdm(answers, "Encoding", len(wishes), disable=None)
    seen = {}
    try:
        for i, answer in zip(wishes, progress, strict=True):
            if is_bad(answer):
                continue
            seen[answer.request.path] = (answer.image, answer.stat)
            pixels = dict(zip(answer.request.views, answer.views, strict=True))
            for sink in sinks:
                for label in sink.wanted(i):
                    sink.add(i, label, answer, pixels[number[sink.pipeline.key], label])
        for sink in sinks:
            sink.flush()
    finally:
        for sink in sinks:
            sink.close()
    return seen
