"""Doing a case in this process, and the numbers that it leaves."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import torch

import predict
import train
from dassl.evaluation.evaluator import Classification
from dassl.utils.files import CACHE_VARIABLE
from golden_runs.cases import Case
from golden_runs.world import CLASSES
from tools import protocol
from tools.protocols.closing import closing_text

OUTPUT = Path("output")
IN_RESULTS = (  # of results.json; the rest is time, memory, versions and paths
    "protocol",
    "part",
    "trainer",
    "recipe",
    "dataset",
    "shots",
    "seed",
    "source",
    "selection",
    "labelled_images",
    "metrics",
    "epoch",
    "fewshot_digest",
    "views",
    "trainable_parameters",
    "total_parameters",
    "stream",
)
NOT_IN_CURVES = ("seconds_per_batch", "memory_bytes", "step_time", "eval_time")
PREDICTED = [f"classes/{name}/{number:02d}.png" for name in CLASSES for number in (0, 9)]
END_OF_TABLES = "\nWritten ("


def perform(case: Case, world: Path) -> dict:
    """Do what the case says in the world's folder, where no ``output`` and no ``cache`` may be.

    Returns:
        By the folder of each run: ``results`` (of results.json) and ``curves`` (metrics.jsonl);
        ``tables`` of a protocol, as it prints them; ``scores`` of a run's last evaluation, a row
        per image; ``predictions`` of predict.py, the probability of each class by image.
    """
    cache = {CACHE_VARIABLE: str(world / "cache")}  # what is asked of a teacher depends on it
    with patch.dict(os.environ, cache), _in_folder(world), _quiet():
        own = _one_run(case.words) if case.script == "train.py" else _protocol(case.words)
        numbers = {"results": _results(), "curves": _curves(), **own}
        if case.predicts:
            numbers["predictions"] = _predictions()
    return numbers


def _one_run(words: Sequence[str]) -> dict:
    with _last_evaluation() as scores:
        train.main(words)
    return {"scores": torch.cat(scores).tolist()}


class _ThisProcess:
    """In place of the launcher of child processes."""

    slots = 1

    def __init__(self, **options: object) -> None:
        self.ended: dict[int, int] = {}

    def start(self, number: int, script: str, arguments: Sequence[str]) -> None:
        if script != "train.py":
            raise ValueError(f"{script} is no part of a case.")
        train.main(arguments)
        self.ended[number] = 0

    def wait(self, timeout: float | None = None) -> dict[int, int]:
        ended, self.ended = self.ended, {}
        return ended

    def stop(self, signum: int) -> None:
        pass


def _protocol(words: Sequence[str]) -> dict:
    texts: list[str] = []

    def keep(*arguments: object) -> str:
        texts.append(closing_text(*arguments))
        return texts[-1]

    with patch.multiple(protocol, Launcher=_ThisProcess, closing_text=keep):
        status = protocol.main(words)
    if status:
        raise RuntimeError(f"tools/protocol.py {' '.join(words)} ended with {status}.")
    return {"tables": texts[-1].split(END_OF_TABLES)[0].splitlines()}


def _results() -> dict[str, dict]:
    """The lasting part of every results.json, by the folder of the run."""
    found = {}
    for path in sorted(OUTPUT.rglob("results.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        shown = {name: content[name] for name in IN_RESULTS if name in content}
        found[path.parent.relative_to(OUTPUT).as_posix()] = shown
    return found


def _curves() -> dict[str, list[dict]]:
    """Losses, accuracies and learning rates of every metrics.jsonl, by the folder of the run."""
    found = {}
    for path in sorted(OUTPUT.rglob("metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            for name in NOT_IN_CURVES:
                line.pop(name, None)
        found[path.parent.relative_to(OUTPUT).as_posix()] = lines
    return found


def _predictions() -> dict[str, dict[str, float]]:
    """Probability of each class for some images, by predict.py from the checkpoint alone."""
    file = OUTPUT / "predictions.json"
    words = ["--model-dir", str(OUTPUT), "--device", "cpu", "--output", str(file)]
    predict.main([*PREDICTED, *words, "--topk", str(len(CLASSES))])
    found: dict[str, dict[str, float]] = {}
    for row in json.loads(file.read_text(encoding="utf-8")):
        found.setdefault(row["image"], {})[row["class"]] = row["probability"]
    return {image: dict(sorted(row.items())) for image, row in found.items()}


@contextlib.contextmanager
def _last_evaluation() -> Iterator[list[torch.Tensor]]:
    """A list that holds the batches of scores of the newest evaluation."""
    batches: list[torch.Tensor] = []
    reset, process = Classification.reset, Classification.process

    def forget(self: Classification) -> None:
        batches.clear()
        reset(self)

    def keep(self: Classification, scores: torch.Tensor, labels: torch.Tensor) -> None:
        batches.append(scores.detach().cpu())
        process(self, scores, labels)

    with patch.multiple(Classification, reset=forget, process=keep):
        yield batches


@contextlib.contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Print nothing; the copy of stdout that a run puts into its log ends here, too."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
