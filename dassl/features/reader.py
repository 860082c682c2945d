"""Reading images once for many views: decode, transform, hand over as uint8.

Workers are processes that stay alive between passes. The pixels of a view do not depend on their
number, and no global random state moves.
"""

import io
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dassl.data.drawn import View, batched
from dassl.data.seeding import kept_generators, reseed
from dassl.data.workers import worker_options
from dassl.utils import BadImageError, read_image
from dassl.utils.file_index import image_digest, stat_digest
from dassl.utils.image import UNREADABLE, max_pixels, open_image, open_regular

from .views import Pipeline, view_seed

try:
    import simplejpeg  # decodes RGB JPEGs to the same pixels as Pillow, faster
except ImportError:
    simplejpeg = None
WORTH_WORKERS = 1.5  # seconds of reading in this process before workers are started
PLAIN_MODES = ("RGB", "RGBA", "L")
EXIF_WITHIN = 4096  # bytes of a JPEG, where its metadata begin


@dataclass(frozen=True)
class Request:
    """What to make of one image.

    Args:
        path: the file.
        views: per view, the index of its pipeline in the chunk and the label that seeds it (None:
            the pipeline draws nothing).
    """

    path: str
    views: tuple[tuple[int, str | None], ...]


@dataclass
class Pixels:
    """What became of a request.

    Attributes:
        request: what was asked.
        image: digest of the file's content; empty if it could not be read.
        stat: digest of path, size and times of the file that was read; empty likewise.
        views: one (3, H, W) tensor per view, or what was drawn; empty if the image is bad.
        error: what is wrong with the image, naming the path; empty if nothing is.
        is_missing: the file does not exist.
    """

    request: Request
    image: bytes = b""
    stat: bytes = b""
    views: list[Tensor | View] = field(default_factory=list)
    error: str = ""
    is_missing: bool = False


def decode(path: str, data: bytes) -> Image.Image:
    """The image in a file's content, mode RGB, with the pixels of ``read_image``.

    Raises:
        BadImageError: if it is not a readable image; names the path.
    """
    if simplejpeg is not None and data[:2] == b"\xff\xd8":
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(data)
            if space in ("YCbCr", "Gray") and height * width <= max_pixels():
                image = Image.fromarray(simplejpeg.decode_jpeg(data, "RGB"))
                if b"Exif\0" in data[:EXIF_WITHIN]:  # ``upright`` may ask for it
                    with open_image(io.BytesIO(data)) as opened:
                        image.info.update(opened.info)
                return image
        except ValueError:
            pass  # Pillow decides whether the file is readable
    try:
        with open_image(io.BytesIO(data)) as image:
            if image.mode in PLAIN_MODES and "transparency" not in image.info:
                return image.convert("RGB")
    except UNREADABLE:
        pass  # read_image says what is wrong
    return read_image(path)


class _Reader(Dataset):
    """Answers chunks: (pipelines, requests) -> (answers without views, pixels per pipeline)."""

    def __init__(self) -> None:
        self.built: dict[str, object] = {}

    def __getitem__(self, chunk: tuple) -> tuple:
        pipelines, requests = chunk
        transforms = [self._transform(pipeline) for pipeline in pipelines]
        with kept_generators():
            answers = [self._read(request, transforms) for request in requests]
        # one tensor per pipeline travels between processes, not one per view
        stacks: list[list[Tensor | View]] = [[] for _ in pipelines]
        for answer in answers:
            for (pipeline, _), pixels in zip(answer.request.views, answer.views, strict=False):
                stacks[pipeline].append(pixels)
            answer.views = []
        return answers, [batched(stack) if stack else None for stack in stacks]

    def _transform(self, pipeline: Pipeline):
        key = pipeline.key
        if key not in self.built:
            self.built[key] = pipeline.build()
        return self.built[key]

    def _read(self, request: Request, transforms: Sequence) -> Pixels:
        try:
            with open_regular(request.path) as file:
                stat, _ = stat_digest(request.path, file.fileno())
                data = file.read()
            image = decode(request.path, data)
        except OSError as err:
            text = f"{request.path} cannot be read ({type(err).__name__}: {err.strerror})."
            return Pixels(request, error=text, is_missing=isinstance(err, FileNotFoundError))
        except BadImageError as err:
            return Pixels(request, error=str(err))
        identity = image_digest(data)
        views = []
        for pipeline, label in request.views:
            if label is not None:
                reseed(view_seed(label, identity))
            views.append(transforms[pipeline](image))
        return Pixels(request, identity, stat, views)


class _Chunks:
    """The sampler of a loader that lives longer than one pass."""

    def __init__(self) -> None:
        self.chunks: Iterable[tuple] = ()

    def __iter__(self) -> Iterator[tuple]:
        return iter(self.chunks)


def _unchanged(chunk):
    return chunk


class PixelReader:
    """Answers requests in order, by worker processes once that pays.

    Args:
        workers: processes; 0 reads in this process.
    """

    def __init__(self, workers: int = 0) -> None:
        self.workers = workers
        self._local = _Reader()
        self._chunks = _Chunks()
        self._loader: DataLoader | None = None

    def read(
        self,
        requests: Iterable[Request],
        pipelines: Sequence[Pipeline],
        *,
        total: int,
        chunk_size: int,
    ) -> Iterator[Pixels]:
        """Yield the answer to each request, in order; no more than a few chunks are in memory.

        Args:
            requests: any number; drawn as they are needed.
            pipelines: what the requests' views refer to.
            total: number of requests.
            chunk_size: requests per task of a worker.
        """
        chunks = _cut(iter(requests), tuple(pipelines), chunk_size)
        count, done, elapsed = -(-total // chunk_size), 0, 0.0
        if self._loader is None:
            for chunk in chunks:
                started = time.perf_counter()
                answer = self._local[chunk]
                elapsed += time.perf_counter() - started
                yield from _unstack(answer)
                done += 1
                if self.workers and elapsed / done * (count - done) > WORTH_WORKERS:
                    self._loader = self._start()
                    break
            else:
                return
        self._chunks.chunks = chunks
        yield from chain.from_iterable(map(_unstack, self._loader))

    def _start(self) -> DataLoader:
        return DataLoader(
            _Reader(),
            batch_size=None,
            sampler=self._chunks,
            **worker_options(self.workers),
            collate_fn=_unchanged,
            persistent_workers=True,
            generator=torch.Generator(),  # the run's own random state stays untouched
        )

    def close(self) -> None:
        """End the worker processes."""
        self._loader = None


def _cut(
    requests: Iterator[Request], pipelines: tuple[Pipeline, ...], size: int
) -> Iterator[tuple]:
    while chunk := list(islice(requests, size)):
        yield pipelines, chunk


def _unstack(answer: tuple) -> Iterator[Pixels]:
    answers, stacks = answer
    rows = [iter(()) if stack is None else iter(stack) for stack in stacks]
    for pixels in answers:
        if not pixels.error:
            pixels.views = [next(rows[pipeline]) for pipeline, _ in pixels.request.views]
        yield pixels
