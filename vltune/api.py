"""Classifiers and trainings from Python; the same engine as the commands."""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from yacs.config import CfgNode

import predict
from dassl.config.files import CONFIGS, config_names
from dassl.config.own_data import is_own
from dassl.engine.command.cli import check_names, make_config, make_parser
from dassl.engine.command.run import run
from dassl.engine.predictor import Predictor
from dassl.engine.state.near_runs import runs_near
from dassl.utils import did_you_mean, read_image, upright
from trainers.common.text.templates import check_templates

from .quiet import quiet

Picture = str | PathLike[str] | Image.Image
PICTURES = (str, PathLike, Image.Image)  # for isinstance


@dataclass(frozen=True)
class Prediction:
    """What a classifier says about N images.

    Attributes:
        names: N names, the most probable class of each image.
        probabilities: (N, C), rows sum to 1; on the CPU.
        classnames: C names, the columns of ``probabilities``.
        is_calibrated: whether a temperature, fitted on validation images, made the probabilities.
        features: (N, D) unit rows that the scores were made of (AMU: two unit parts side by side),
            where they were asked for; on the CPU.
    """

    names: list[str]
    probabilities: Tensor
    classnames: list[str]
    is_calibrated: bool = False
    features: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def top(self, k: int = 3) -> list[list[tuple[str, float]]]:
        """The k most probable classes of each image, best first, as (name, probability)."""
        best = self.probabilities.topk(min(k, len(self.classnames)))
        return [
            [(self.classnames[label], value) for label, value in zip(labels, values)]
            for labels, values in zip(best.indices.tolist(), best.values.tolist())
        ]


class Classifier:
    """Images -> class probabilities. Made by ``load``, ``zero_shot`` and ``fit``.

    Attributes:
        classnames: C names, ordered by label.
        calibration: ``temperature`` that divides the scores, fitted on validation ``images``; or
            None, and the ``reason``.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.classnames = list(predictor.classnames)
        self.calibration = dict(predictor.calibration)

    def __repr__(self) -> str:
        more = ", ..." if len(self.classnames) > 5 else ""
        names = ", ".join(self.classnames[:5])
        return f"Classifier of {len(self.classnames)} classes: {names}{more}"

    @torch.no_grad()
    def __call__(
        self,
        images: Picture | Sequence[Picture],
        *,
        features: bool = False,
        batch_size: int = 64,
    ) -> Prediction:
        """Classify images: paths and Pillow images, one or several.

        Args:
            images: N of them; photographs are turned as their EXIF tag says.
            features: return the image features, too.
            batch_size: images in memory at a time.

        Raises:
            FileNotFoundError, BadImageError: an image is not there, or not readable.
            TypeError: neither paths nor Pillow images.
            ValueError: no image is given, or this classifier has no features to return.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
        given: list[Any] = [images]
        if isinstance(images, Iterable) and not isinstance(images, str):
            given = list(images)
        if not given:
            raise ValueError("No image is given; expected paths or Pillow images.")
        if unknown := [image for image in given if not isinstance(image, PICTURES)]:
            raise TypeError(
                f"An image is of type {type(unknown[0]).__name__}; expected a path or a Pillow "
                "image (PIL.Image.fromarray makes one of a NumPy array)."
            )
        extract = self._predictor.features
        if features and extract is None:
            raise ValueError(
                "This classifier is a network without separate features: features=True has "
                "nothing to return. Leave it out."
            )
        probabilities, found = [], []
        for first in range(0, len(given), batch_size):
            batch = [_picture(image) for image in given[first : first + batch_size]]
            pixels = self._predictor.pixels(batch)
            probabilities.append(self._predictor(pixels).cpu())
            if features and extract is not None:
                found.append(extract(pixels).float().cpu())
        table = torch.cat(probabilities)
        names = [self.classnames[label] for label in table.argmax(dim=1).tolist()]
        return Prediction(
            names,
            table,
            self.classnames,
            self.calibration["temperature"] is not None,
            torch.cat(found) if found else None,
        )


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        results: content of its ``results.json``.
        output_dir: its folder, for ``vltune.load`` and the commands.
    """

    results: dict[str, Any] = field(repr=False)
    output_dir: Path

    @property
    def accuracy(self) -> float:
        """Test accuracy in percent."""
        return self.results["metrics"]["test"]["accuracy"]

    @cached_property
    def classifier(self) -> Classifier:
        """What was trained.

        Raises:
            FileNotFoundError: the method trains nothing; ``zero_shot`` makes such a classifier.
        """
        return load(self.output_dir)


def load(path: str | PathLike[str], *, epoch: int | None = None, device: str = "") -> Classifier:
    """The classifier of a finished run or of a bundle.

    Args:
        path: folder of the run, one of its checkpoints, or a folder that `vltune export` wrote.
        epoch: which checkpoint (default: the best or the last one).
        device: "cpu", "cuda", ... (default: a GPU where there is one).

    Raises:
        FileNotFoundError: no checkpoint is there; says what is.
        ValueError: the checkpoint is not one of this package.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f'path is "{path}", which does not exist; expected the folder of a finished run, or a '
            f"bundle that vltune export wrote. {runs_near(Path(path))}".rstrip()
        )
    return Classifier(predict.tuned_predictor(Path(path), epoch, _device(device)))


def zero_shot(
    backbone: str,
    classnames: Sequence[str],
    *,
    templates: str | Sequence[str] = (),
    device: str = "",
) -> Classifier:
    """A classifier made of class names alone.

    Args:
        backbone: "ViT-B/16", "open_clip:ViT-B-32/laion2b_s34b_b79k", a file, ... (README).
        classnames: two or more.
        templates: sentences with one {}, averaged (default: "a photo of a {}.").
        device: "cpu", "cuda", ... (default: a GPU where there is one).

    Raises:
        ValueError: fewer than two names, an unknown backbone, a template without {}.
    """
    names = [] if isinstance(classnames, str) else list(classnames)
    if len(names) < 2 or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(
            f'classnames is {classnames!r}; expected two or more names, as ["cat", "dog"].'
        )
    given = [templates] if isinstance(templates, str) else list(templates)
    sentences = check_templates(given, given_as="templates") if given else []
    return Classifier(
        predict.zero_shot_predictor(backbone, names, _device(device), templates=sentences)
    )


def fit(
    dataset: str | PathLike[str],
    *,
    method: str,
    shots: int = 16,
    seed: int = 1,
    backbone: str = "",
    root: str | PathLike[str] = "",
    output_dir: str | PathLike[str] = "",
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Run:
    """Train and test a method; a finished run of the same settings is read, not repeated.

    Args:
        dataset: a folder of images, ``<class>/*`` or ``<split>/<class>/*``, a CSV table of them
            (docs/own_data.md), or a dataset by name (``vltune list datasets``).
        method: name of a trainer (``vltune list trainers``).
        shots: training images per class; 0 takes all.
        seed: of the few-shot draw and of the training.
        backbone: instead of the recipe's own.
        root: folder that holds the datasets, for those with a name.
        output_dir: folder of the run (default: a tree under output/).
        settings: config keys, as {"OPTIM.MAX_EPOCH": 10}.
        progress: show a progress bar.

    Raises:
        ValueError, KeyError, FileNotFoundError: as ``vltune train``.
    """
    words = ["--trainer", method, *_dataset_words(dataset, root), "--seed", str(seed)]
    for flag, value in (("--backbone", backbone), ("--output-dir", output_dir)):
        words += [flag, str(value)] if value else []
    pairs = {"DATASET.NUM_SHOTS": shots, **(settings or {})}
    words += [str(word) for pair in pairs.items() for word in pair]
    with quiet("", progress=False):  # what is wrong is said before a bar appears
        args, cfg = _read(words)
    with quiet(f"{method} on {dataset}", progress=progress):
        results = run(args, cfg)
    assert results is not None  # only --no-train gives none
    return Run(results, Path(cfg.OUTPUT_DIR))


def _read(words: Sequence[str]) -> tuple[argparse.Namespace, CfgNode]:
    """Arguments and config of what `train.py` would do with these words."""
    try:
        args = make_parser().parse_args(words)
    except SystemExit as err:  # argparse has printed why
        raise ValueError(f"train.py does not take: {shlex.join(words)}") from err
    importlib.import_module("trainers")  # makes known what it holds, as the other import does
    check_names(args)
    importlib.import_module("datasets")
    return args, make_config(args)


def _dataset_words(dataset: str | PathLike[str], root: str | PathLike[str]) -> list[str]:
    """A dataset as arguments of `train.py`: known names as they are, else a folder or a table.

    Raises:
        ValueError: neither; names what is alike.
    """
    name = str(dataset)
    known = config_names(CONFIGS / "datasets")
    if name in known or is_own(name):
        return ["--dataset", name, *(["--root", str(root)] if root else [])]
    if not Path(dataset).exists():
        raise ValueError(
            f'dataset is "{name}", which is neither a folder or table nor a known name. Give the '
            f"path of a folder <class>/*.jpg. {did_you_mean(name, known)}"
        )
    if root:
        raise ValueError(f"root {root} has no effect: {name} is the place of the images itself.")
    return ["--dataset", f"{'folder' if Path(dataset).is_dir() else 'csv'}:{name}"]


def _picture(image: Picture) -> Image.Image:
    """An image as predictions see it: RGB, upright."""
    if isinstance(image, Image.Image):
        return upright(image).convert("RGB")
    return upright(read_image(image))


def _device(name: str) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
