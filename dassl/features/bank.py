"""Frozen image features on disk: computed once, shared by every method, shot count and seed.

Rows are raw features, float32, not normalised. A store belongs to an encoder (weights,
normalisation, precision) and a pipeline of views; a row to an image (by its content), a view and
the seed of the augmentation. A second run reads no pixel. Several processes may fill one bank; what
is stale or damaged is recomputed, never used; memory does not grow with the number of images.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dassl.data.datasets import Datum
from dassl.data.drawn import DrawnViews, batched
from dassl.utils import BadImageError, cache_dir, only_writer, ranks, write_json
from dassl.utils.file_index import Identities

from .encode import BankSink, MemorySink, fill, row_keys, view_labels
from .encoder import Encoder
from .reader import PixelReader, Pixels, Request
from .rows import FeatureView
from .store import Store
from .views import Augmentation, Pipeline

logger = logging.getLogger(__name__)
FORMAT = 1  # of the files; another number is another folder
DEFAULT_BATCH = {"cuda": 256, "cpu": 64}
AUGMENTATION_SEED = 0  # of stored training views; runs of every seed share them


class FeatureBank:
    """Features of one encoder under one augmentation.

    Args:
        encoder: the frozen network.
        augmentation: how it sees images; must have the encoder's size.
        root: folder of all banks; default: ``cache_dir() / "features"``.
        batch_size: images per forward pass; default 256 on CUDA, 64 on a CPU.
        workers: processes that read images; they start only when that pays.
        device: where to encode; default: wherever the encoder is.
        skip_bad_images: leave out missing and corrupt images and count them, in place of stopping.

    Attributes:
        skipped: path -> what is wrong, for every bad image met so far.
        encoded: number of rows computed so far, not read from disk.

    Raises:
        ValueError: if the views have another size than the encoder's input.
    """

    def __init__(
        self,
        encoder: Encoder,
        augmentation: Augmentation,
        *,
        root: Path | str | None = None,
        batch_size: int | None = None,
        workers: int = 0,
        device: torch.device | str | None = None,
        skip_bad_images: bool = False,
    ) -> None:
        if encoder.size not in (None, augmentation.size):
            raise ValueError(
                f"The encoder {encoder.name} reads {encoder.size} x {encoder.size} pixels, the "
                f"augmentation makes {augmentation.size} x {augmentation.size}. Set INPUT.SIZE to "
                f"({encoder.size}, {encoder.size})."
            )
        self.encoder = encoder if device is None else encoder.to(device)
        self.augmentation = augmentation
        self.root = Path(root) if root is not None else cache_dir() / "features"
        self.batch_size = batch_size or DEFAULT_BATCH.get(encoder.device.type, 64)
        self.skip_bad_images = skip_bad_images
        self.reader = PixelReader(workers)
        self.skipped: dict[str, str] = {}
        self.encoded = 0
        self._stores: dict[str, Store] = {}
        self._identities: Identities | None = None

    @property
    def dim(self) -> int:
        """Feature width D."""
        return self.encoder.dim

    def test(self, items: Sequence[Datum]) -> FeatureView:
        """The deterministic test view of every item: one view, N rows."""
        return encode_together([self], items)[0]

    def train(
        self, items: Sequence[Datum], *, views: int, seed: int = AUGMENTATION_SEED
    ) -> FeatureView:
        """Stored training views: V views, N rows each.

        Args:
            items: the images.
            views: V; asking for more later keeps the first ones.
            seed: of the augmentation, not of the run: runs with other seeds share the rows.
        """
        return encode_together([self], items, views=views, seed=seed)[0]

    def fresh(self, items: Sequence[Datum], *, seed: int, epoch: int) -> Tensor:
        """A new training view of every item for one epoch, encoded now; nothing is stored.

        Args:
            items: the images; an image that occurs twice gets two different views.
            seed: seed of the run.
            epoch: from 0.

        Returns:
            (N, D) raw features, float32, on the CPU; NaN rows for skipped images.
        """
        return fresh_together([self], items, seed=seed, epoch=epoch)[0]

    def pixels(
        self, items: Sequence[Datum], *, views: int = 0, seed: int = AUGMENTATION_SEED
    ) -> Tensor:
        """The pixels that ``test`` (views 0) or ``train`` encode, all in memory.

        Returns:
            (max(views, 1), N, 3, H, W), uint8 in 0..255 or float in [0, 1].

        Raises:
            BadImageError: for a corrupt image.
        """
        labels = view_labels(views, seed)
        requests = [Request(i.impath, tuple((0, label) for label in labels)) for i in items]
        answers = self.reader.read(
            requests, [self.pipeline(views)], total=len(requests), chunk_size=32
        )
        rows = [batched(answer.views) for answer in answers if not self.report(answer)]
        made = [views.on("cpu") if isinstance(views, DrawnViews) else views for views in rows]
        return torch.stack(made, dim=1)

    def readable(self, items: Sequence[Datum]) -> list[Datum]:
        """The items whose images can be read: what a run with ``skip_bad_images`` works on.

        Images with a stored test row are known to be readable; the others are decoded. Without
        ``skip_bad_images`` all items come back unread: a bad one stops the run when it is met.
        """
        if not self.skip_bad_images:
            return list(items)
        paths = [item.impath for item in items]
        store = self.store(self.augmentation.test)
        images = self.identify(paths)
        found = store.locate(row_keys(images, [None])[0]) >= 0
        unknown = [path for path, known in zip(paths, found, strict=True) if not known]
        requests = [Request(path, ()) for path in dict.fromkeys(unknown)]
        for answer in self.reader.read(requests, (), total=len(requests), chunk_size=32):
            self.report(answer)
        return [item for item in items if item.impath not in self.skipped]

    def close(self) -> None:
        """End the processes that read images."""
        self.reader.close()

    # ------------------------------------------------------------------ for this package
    def pipeline(self, views: int) -> Pipeline:
        """The pipeline of the test view (views 0) or of training views."""
        return self.augmentation.train if views else self.augmentation.test

    def store(self, pipeline: Pipeline) -> Store:
        """The store of this encoder and a pipeline, with all rows written until now."""
        if pipeline.key not in self._stores:
            name = "".join(c if c.isalnum() or c in "-." else "_" for c in self.encoder.name)
            encoder = f"{name}-{self.encoder.key[:20]}-v{FORMAT}"
            folder = self.root / encoder / pipeline.key[:20]
            self._stores[pipeline.key] = Store(folder, self.dim)
        store = self._stores[pipeline.key]
        store.refresh()
        return store

    def describe(self, pipeline: Pipeline) -> None:
        """Write beside the rows, for human readers, what they are."""
        encoder, path = self.encoder, self.store(pipeline).folder / "about.json"
        if path.exists():
            return
        about = {
            "encoder": encoder.name,
            "weights": encoder.digest,
            "mean": encoder.mean,
            "std": encoder.std,
            "precision": encoder.precision,
            "dim": encoder.dim,
            "views": pipeline.describe(),
        }
        write_json(about, path)

    @property
    def identities(self) -> Identities:
        """Which file has which content."""
        if self._identities is None:
            self._identities = Identities(self.root / "identities")
        return self._identities

    def identify(self, paths: Sequence[str]) -> np.ndarray:
        """(N,) S16 digests of images, reading only files that changed or are new.

        Empty where nothing can be known without decoding: files that cannot be read, and all new
        files as long as the bank has no rows at all.
        """
        images, unknown = self.identities.lookup(paths)
        if unknown and self.root.is_dir() and any(self.root.glob("*/*/*.index")):
            images[unknown] = self.identities.read([paths[i] for i in unknown])
        return images

    def share(self, seen: dict[str, tuple[bytes, bytes]]) -> dict[str, tuple[bytes, bytes]]:
        """What all processes of the run have read, from what this one has; remembers it.

        Args:
            seen: path -> (digest of the content, digest of the file's state).
        """
        self.share_skipped()
        found = {path: digests for part in ranks.gather(seen) for path, digests in part.items()}
        images, stats = ([digests[i] for digests in found.values()] for i in (0, 1))
        ranks.written(lambda: self.identities.remember(stats, images, list(found)))
        if not ranks.is_writer():
            self._identities = None  # read again: the writer knows more
        return found

    def share_skipped(self) -> None:
        """Leave out what another process of this run could not read."""
        for path, problem in (p for part in ranks.gather(self.skipped) for p in part.items()):
            if path not in self.skipped:
                logger.warning("Skipped (%d so far): %s", len(self.skipped) + 1, problem)
                self.skipped[path] = problem

    def report(self, answer: Pixels) -> bool:
        """Whether an image is bad; stops at it unless bad images are skipped.

        Raises:
            FileNotFoundError: the image is missing.
            BadImageError: it is corrupt.
        """
        return report_bad(answer, self.skipped if self.skip_bad_images else None)


def report_bad(answer: Pixels, skipped: dict[str, str] | None) -> bool:
    """Whether an image could not be read; adds it to ``skipped``, or stops if that is None."""
    path = answer.request.path
    if not answer.error:
        return False
    if skipped is None:
        raise FileNotFoundError(answer.error) if answer.is_missing else BadImageError(answer.error)
    if path not in skipped:
        logger.warning("Skipped (%d so far): %s", len(skipped) + 1, answer.error)
        skipped[path] = answer.error
    return True


def encode_together(
    banks: Sequence[FeatureBank],
    items: Sequence[Datum],
    *,
    views: int = 0,
    seed: int = AUGMENTATION_SEED,
) -> list[FeatureView]:
    """One FeatureView per bank; an image is read and decoded once for all banks and views.

    Args:
        banks: their encoders see the same pixels where their pipelines are the same.
        items: the images.
        views: 0 is the test view; V stored training views otherwise.
        seed: of the training views.
    """
    paths = list(dict.fromkeys(item.impath for item in items))
    labels = view_labels(views, seed)
    images = banks[0].identify(paths)
    sinks: dict[Path, BankSink] = {}
    for bank in banks:
        pipeline = bank.pipeline(views)
        sink = BankSink(bank.encoder, pipeline, bank.batch_size, bank.store(pipeline), labels)
        sinks.setdefault(sink.store.folder, sink)
    of_bank = [bank.store(bank.pipeline(views)).folder for bank in banks]
    if not ranks.all_true(_find(sinks.values(), images)):
        _fill_stores(banks[0], list(sinks.values()), paths, images)
        for bank in banks:
            bank.describe(bank.pipeline(views))
    place = {path: i for i, path in enumerate(paths)}
    rows = np.array([place[item.impath] for item in items], dtype=np.int64)
    for bank, folder in zip(banks, of_bank, strict=True):
        bank.encoded += sinks[folder].encoded
    views_of = {f: FeatureView(s.rows, s.records[:, rows], items) for f, s in sinks.items()}
    return [views_of[folder] for folder in of_bank]


def _find(sinks: Iterable[BankSink], images: np.ndarray) -> bool:
    """Look images up in every store; returns whether nothing is missing anywhere."""
    return min([sink.find(images) for sink in sinks])


def _fill_stores(
    bank: FeatureBank, sinks: list[BankSink], paths: list[str], images: np.ndarray
) -> None:
    """Encode what the stores lack; fills in ``images`` where digests were unknown."""
    bank.root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for sink in sorted(sinks, key=lambda sink: str(sink.store.folder)):
            if ranks.is_writer():  # for all processes of this run
                stack.enter_context(only_writer(sink.store.folder))
        ranks.barrier()
        for sink in sinks:
            sink.store.refresh()  # another process may have been at work until now
        if (images == b"").any():
            images[:] = bank.identify(paths)
        if ranks.all_true(_find(sinks, images)):
            return
        seen = bank.share(fill(bank.reader, paths, sinks, bank.report))
        place = {path: i for i, path in enumerate(paths)}
        for path, (image, _) in seen.items():
            images[place[path]] = image
        for sink in sinks:
            sink.store.refresh()
            sink.find(images)
            missing = [p for p, r in zip(paths, sink.records.min(0), strict=True) if r < 0]
            lost = [path for path in missing if path not in bank.skipped]
            if lost:
                raise RuntimeError(
                    f"{len(lost)} rows written to {sink.store.folder} cannot be read back, the "
                    f"first for {lost[0]}. Check the disk, or point VLTUNE_CACHE to another one."
                )


def fresh_together(
    banks: Sequence[FeatureBank], items: Sequence[Datum], *, seed: int, epoch: int
) -> list[Tensor]:
    """``FeatureBank.fresh`` of several banks; every image is read and decoded once.

    Returns:
        One (N, D) float32 tensor per bank, on the CPU, NaN rows for skipped images.
    """
    copies: Counter[str] = Counter()
    labels = []
    for item in items:
        labels.append(f"{seed}/epoch {epoch}/{copies[item.impath]}")
        copies[item.impath] += 1
    sinks = [MemorySink(b.encoder, b.pipeline(1), b.batch_size, labels) for b in banks]
    fill(banks[0].reader, [item.impath for item in items], sinks, banks[0].report)
    banks[0].share_skipped()
    for bank, sink in zip(banks, sinks, strict=True):
        ranks.merge_rows(sink.features)
        bank.encoded += sink.encoded
    return [sink.features for sink in sinks]
