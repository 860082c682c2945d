"""What a run predicted: scores, labels and images of each split, kept as `predictions.npz`.

Scores are kept in half precision, relative to the largest of their row. Softmax does not change by
that, the first of the largest stays the first of the largest, and precision is highest near it: a
gap g to the largest score has an error of at most g / 2048. An image with C classes takes 2 C bytes
before compression (ImageNet's test images: 100 MB).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dassl.utils import ranks
from dassl.utils.files import atomic_write

PREDICTIONS_FILE = "predictions.npz"
MOST_BYTES = 8 * 2**30  # that a file may unfold to; 50,000 images of 21,000 classes are 2 GB
SPLITS = ("test", "val")
_SMALLEST_GAP = 2.0**-24  # that half precision tells from none
_LARGEST_GAP = 65504.0  # of half precision


@dataclass(frozen=True)
class SplitPredictions:
    """The predictions of one split.

    Attributes:
        logits: (N, C) float32, the largest of each row is 0.
        labels: (N,) int64.
        images: (N,) names, relative to the data folder.
    """

    logits: np.ndarray
    labels: np.ndarray
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> np.ndarray:
        """(N,) the first of the largest scores of each image."""
        return self.logits.argmax(axis=1)


@dataclass(frozen=True)
class Predictions:
    """The content of `predictions.npz`.

    Attributes:
        splits: `test`, `val` or both.
        classnames: C names, ordered by label.
        temperature: by which to divide logits, fitted on validation images; None: there is none.
        folder: with the name of an image behind it, the path of that image; "" where unknown.
    """

    splits: Mapping[str, SplitPredictions]
    classnames: Sequence[str]
    temperature: float | None = None
    folder: str = ""


@dataclass
class ScoredImages:
    """Collects the scores of a pass over a split; each batch is kept in half precision."""

    logits: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def add(self, logits: Tensor, labels: Tensor, paths: Sequence[str] = ()) -> None:
        """Add a batch.

        Args:
            logits: (B, C) scores before softmax.
            labels: (B,).
            paths: of the B images.
        """
        self.logits.append(halved(logits).cpu())
        self.labels.append(labels.detach().cpu())
        self.paths.extend(paths)

    def gather(self) -> None:
        """Take in what the other processes of this run have scored: ``every`` W-th batch each."""
        if ranks.size() == 1:
            return
        found = ranks.gather((self.logits, self.labels, self.paths))
        self.logits, self.labels, self.paths = [], [], []
        for number in range(sum(len(labels) for _, labels, _ in found)):
            logits, labels, paths = found[number % ranks.size()]
            place = number // ranks.size()
            first = sum(map(len, labels[:place]))
            self.logits.append(logits[place])
            self.labels.append(labels[place])
            self.paths += paths[first : first + len(labels[place])]

    def joined(self) -> tuple[Tensor, Tensor]:
        """(N, C) float16 logits and (N,) labels."""
        return torch.cat(self.logits), torch.cat(self.labels).long()

    def __len__(self) -> int:
        return sum(map(len, self.labels))


def halved(logits: Tensor) -> Tensor:
    """(B, C) scores -> (B, C) float16, 0 for the largest of a row, below 0 for all smaller ones."""
    scores = logits.detach().float()
    gaps = scores.amax(dim=1, keepdim=True) - scores
    kept = gaps.clamp(min=_SMALLEST_GAP, max=_LARGEST_GAP)
    return -torch.where(gaps > 0, kept, gaps).half()


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Logits of which softmax makes these (unnormalised) probabilities again."""
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def write_predictions(
    path: Path,
    splits: Mapping[str, tuple[np.ndarray, np.ndarray, Sequence[str]]],
    classnames: Sequence[str],
    *,
    temperature: float | None = None,
    folder: str = "",
) -> None:
    """Write `predictions.npz`, atomically.

    Args:
        path: of the file.
        splits: name -> (N, C) float16 logits, (N,) labels, N image names.
        classnames: C names, ordered by label.
        temperature: fitted on the validation images, or None.
        folder: of the images.
    """
    arrays: dict[str, Any] = {
        "classnames": np.array(list(classnames), dtype=str),
        "temperature": np.array(np.nan if temperature is None else temperature),
        "folder": np.array(folder),
    }
    for name, (logits, labels, images) in splits.items():
        arrays[f"{name}_logits"], arrays[f"{name}_labels"] = logits, labels
        arrays[f"{name}_images"] = np.array(list(images), dtype=str)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_predictions(run: str | os.PathLike) -> Predictions:
    """The predictions of a run folder, or of such a file.

    Raises:
        FileNotFoundError: the run kept none.
        ValueError: the file is damaged or of another kind.
    """
    path = Path(run)
    path = path / PREDICTIONS_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"No {PREDICTIONS_FILE} in {path.parent}: the run is unfinished, or of a version "
            "before 0.2. Run its command again in a new folder."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                raise ValueError(f"it would unfold to more than {MOST_BYTES:,} bytes")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return _of_arrays(arrays)
    except (ValueError, KeyError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as err:
        raise ValueError(
            f"{path} is damaged, or not predictions of a run ({err}). Delete its folder and run "
            "again."
        ) from err


def read_scored(path: Path) -> dict[str, ScoredImages]:
    """Split -> what a finished run scored, from its `predictions.npz`; {} where it kept none."""
    if not path.is_file():
        return {}
    kept, scored = read_predictions(path), {}
    for name, split in kept.splits.items():
        scored[name] = ScoredImages()
        paths = [os.path.join(kept.folder, image) for image in split.images.tolist()]
        scored[name].add(torch.tensor(split.logits), torch.tensor(split.labels), paths)
    return scored


def _of_arrays(arrays: Mapping[str, np.ndarray]) -> Predictions:
    splits, classnames = {}, arrays["classnames"].tolist()
    for name in SPLITS:
        if f"{name}_logits" not in arrays:
            continue
        logits = arrays[f"{name}_logits"].astype(np.float32)
        labels, images = arrays[f"{name}_labels"], arrays[f"{name}_images"]
        if logits.ndim != 2 or not len(logits) == len(labels) == len(images):
            raise ValueError(f"{name}: {logits.shape} logits, {len(labels)} labels")
        if len(classnames) != logits.shape[1] or not np.isfinite(logits).all():
            raise ValueError(f"{name}: {len(classnames)} classes, {logits.shape} logits, some NaN")
        if labels.dtype.kind not in "iu" or not np.isin(labels, range(len(classnames))).all():
            raise ValueError(f"{name}: labels that are not 0 to {len(classnames) - 1}")
        splits[name] = SplitPredictions(logits, labels, images)
    temperature = float(arrays["temperature"])
    return Predictions(
        splits=splits,
        classnames=classnames,
        temperature=None if np.isnan(temperature) else temperature,
        folder=str(arrays["folder"]),
    )
