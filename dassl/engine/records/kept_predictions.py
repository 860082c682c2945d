"""Keep what a run predicted, and the temperature that makes its probabilities calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dassl.evaluation.calibration import (
    INNER_RANGE,
    Calibration,
    fit_temperature,
    no_temperature,
)
from dassl.evaluation.predictions import write_predictions
from dassl.utils import load_checkpoint
from dassl.utils.checkpoint import write_checkpoint
from dassl.utils.files import link_or_copy

from ..state.checkpoints import find_checkpoint
from .report import image_name

if TYPE_CHECKING:
    from ..base import TrainerBase


def keep_predictions(
    trainer: TrainerBase, path: Path, *, trained: Calibration | None = None
) -> Calibration:
    """Write what ``trainer.scored`` holds; returns ``calibration`` of ``results.json``.

    Args:
        trainer: after its final test.
        path: of ``predictions.npz``.
        trained: of an evaluation, the calibration of the run that trained the model: an evaluation
            reads no validation labels.

    """
    root = trainer.cfg.DATASET.ROOT
    splits, folder = {}, ""
    for name, scored in trainer.scored.items():
        logits, labels = (rows.numpy() for rows in scored.joined())
        names = [image_name(image, root) for image in scored.paths]
        if len(names) != len(labels):  # a loader that does not say which images it gives
            names = [f"{name}/{place}" for place in range(len(labels))]
        else:
            folder = folder or _folder(scored.paths, names)
        splits[name] = (logits, labels, names)
    calibration = trained if trained is not None else calibrate(splits)
    if splits:
        known = trainer.lab2cname or {}
        classes = next(iter(splits.values()))[0].shape[1]
        classnames = [str(known.get(label, label)) for label in range(classes)]
        temperature = calibration["temperature"]
        write_predictions(path, splits, classnames, temperature=temperature, folder=folder)
    return calibration


def calibrate(splits: dict[str, tuple]) -> Calibration:
    """The temperature that validation images ask for, or why there is none.

    Args:
        splits: "val", where there is one, and "test" -> (logits (N, C), labels (N,), image ids).
    """
    if "val" not in splits:
        return no_temperature("no validation images")
    logits, labels, images = splits["val"]
    if "test" in splits and not set(images).isdisjoint(splits["test"][2]):
        return no_temperature("the validation images are test images")
    temperature = fit_temperature(logits, labels)
    if not INNER_RANGE[0] < temperature < INNER_RANGE[1]:
        return no_temperature(f"{len(labels)} validation images set no bound on it; more would")
    return {"temperature": temperature, "images": len(labels)}


def store_calibration(output: Path, calibration: Calibration) -> None:
    """Put a temperature into the checkpoint of the tested model, which predictions load.

    A checkpoint without one says the same as one that was written again to say so.
    """
    if calibration["temperature"] is None:
        return
    try:
        path = find_checkpoint(output)
        content = load_checkpoint(path)
    except (FileNotFoundError, ValueError):  # nothing was trained, or other code writes the file
        return
    if not isinstance(content, dict):
        return
    linked = [file for file in output.iterdir() if file.is_file() and file.samefile(path)]
    write_checkpoint({**content, "calibration": calibration}, path)
    for file in linked:
        link_or_copy(path, file)


def _folder(paths: Sequence[str], names: Sequence[str]) -> str:
    """The folder that all names are relative to, or "" where there is more than one."""
    folders = {str(Path(path).absolute()).removesuffix(name) for path, name in zip(paths, names)}
    return folders.pop() if len(folders) == 1 else ""
