"""What lets a stream resume after a kill: one rolling file, and what has to agree with it.

The file holds data only, is replaced atomically between two chunks of images, and is removed when
the run has ended. Chunks begin where they would have begun anyway, so the rest of the stream gets
the same bits.
"""

import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.config.settings import flat
from dassl.config.yaml_files import config_of
from dassl.data.datasets import Datum
from dassl.engine.records.report import image_name
from dassl.engine.state.resume import (
    DEFAULT_INTERVAL,
    INTERVAL_VARIABLE,
    check_same_config,
    errors_of_state,
)
from dassl.utils import interrupts, load_checkpoint, write_tensors

from .stream import Stream

if TYPE_CHECKING:
    from .trainer import StreamTrainer

logger = logging.getLogger(__name__)
RESUME_NAME = "resume.stream_{split}.pth.tar"
RESUME_FORMAT = "vltune-stream-1"
ABOUT_ONE_PART = ("STREAM_SEED", "STREAM_LENGTH", "STREAM_STATE")  # the order's seed is kept apart
LEAST_RATIO = 20  # seconds of streaming per second of writing, at least
TOLERANCE = 1e-3  # of a fingerprint: another machine rounds otherwise, another model is farther
SHOWN = 60  # characters of a value in errors


def check_same_stream(given: Mapping, own: Mapping, path: str | Path, *, fix: str) -> None:
    """Refuse the state of another stream.

    Raises:
        ValueError: naming the first thing that differs, with both values, and the fix.
    """
    unsaid = [what for what in own if what not in given]
    if unsaid:
        logger.warning(
            "%s was written by an earlier version and does not say what it was begun with: %s.",
            path,
            ", ".join(unsaid),
        )
    for what, value in own.items():
        if what in given and given[what] != value:
            raise ValueError(
                f"{path} belongs to another stream: its {what} is {_shown(given.get(what))}, "
                f"this run's is {_shown(value)}. {fix}"
            )


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def check_same_weights(
    given: Mapping[str, Tensor] | None, method: nn.Module, path: str | Path, *, fix: str
) -> None:
    """Refuse the state of a stream of another model.

    Args:
        given: the model's fingerprint; None in states of an earlier version.
        method: this run's model.

    Raises:
        ValueError: naming the first tensor that differs, and the fix.
    """
    names = [] if given is None else different_tensors(given, fingerprint(method))
    if names:
        raise ValueError(
            f"{path} belongs to a stream of another model: its tensor {names[0]} differs from this "
            f"run's. {fix}"
        )


def shaping_settings(cfg: CfgNode, section: str) -> dict[str, Any]:
    """Full key -> value of what decides the answers of a stream: the method, views and data."""
    ours = (f"{section}.", "INPUT.", "DATASET.", "TRAIN.VIEWS")
    free = ("DATASET.ROOT", *(f"{section}.{name}" for name in ABOUT_ONE_PART))
    return {
        key: value for key, value in flat(cfg).items() if key.startswith(ours) and key not in free
    }


def images_digest(items: Sequence[Datum], root: str) -> str:
    """SHA-256 over names below the data folder and sizes in bytes: the same where it is moved."""
    digest = hashlib.sha256()
    for item in items:
        size = os.stat(item.impath).st_size
        digest.update(f"{image_name(item.impath, root)}\t{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def fingerprint(module: nn.Module) -> dict[str, Tensor]:
    """Tensor name -> (rows,) a weighted sum of every row: small, and different where a row is."""
    found = {}
    for name, tensor in module.state_dict().items():
        values = tensor.detach().cpu().double().reshape(-1, tensor.shape[-1] if tensor.dim() else 1)
        found[name] = values @ torch.arange(1, values.shape[1] + 1).double().cos()
    return found


def different_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors whose fingerprints differ."""
    return [
        name
        for name in sorted(set(first) | set(second))
        if name not in first or name not in second or not _is_close(first[name], second[name])
    ]


def _is_close(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    largest = float(first.abs().max()) if len(first) else 0.0
    return torch.allclose(first, second, rtol=0, atol=TOLERANCE * largest)


class StreamResume:
    """The rolling file of one stream.

    Args:
        trainer: whose method answers; its ``stream_state`` and the stream are kept.
        split: that is streamed.
        items: its images.
        first: position that this run begins with; more than 0 where it continues STREAM_STATE.

    The least number of seconds between two files is the engine's: 30, or VLTUNE_RESUME_SECONDS (0:
    after every chunk). Writing takes at most 1 / LEAST_RATIO of the time.
    """

    def __init__(
        self, trainer: "StreamTrainer", split: str, items: Sequence[Datum], *, first: int
    ) -> None:
        self.trainer = trainer
        self.path = Path(trainer.output_dir) / RESUME_NAME.format(split=split)
        self.interval = float(os.environ.get(INTERVAL_VARIABLE, DEFAULT_INTERVAL))
        self.items, self.first = items, first
        self.fingerprint = fingerprint(trainer.method)
        self.earlier_seconds = 0.0  # of earlier attempts
        self.start = time.monotonic()
        self.next = self.start + self.interval

    def belongs_to(self) -> dict:
        """What a stream must agree in to be continued by this run."""
        return {**self.trainer.belongs_to(self.items), "first image": self.first}

    def save(self, stream: "Stream", *, force: bool = False) -> None:
        """Replace the file, unless the last one is young."""
        begin = time.monotonic()
        if not force and begin < self.next:
            return
        state = {
            "format": RESUME_FORMAT,
            "config": self.trainer.cfg.dump(),
            "belongs_to": self.belongs_to(),
            "fingerprint": self.fingerprint,
            "run_seed": self.trainer.run_seed,
            "stream": stream.state(),
            "method": self.trainer.stream_state(exact=True),
            "seconds": self.earlier_seconds + begin - self.start,
        }
        write_tensors(state, self.path)
        end = time.monotonic()
        self.next = end + (max(self.interval, LEAST_RATIO * (end - begin)) if self.interval else 0)

    def after_chunk(self, stream: "Stream") -> None:
        """A safe point: keep the state if that is due, and end here if a signal came."""
        self.save(stream, force=interrupts.is_pending())
        interrupts.stop_if_pending(f"image {stream.position}; state saved in {self.path}")

    def load(self) -> Stream | None:
        """The stream to resume, its method's state put into the trainer; None without a file.

        Raises:
            ValueError: for a damaged file, or one of another stream; names what differs.
        """
        if not self.path.is_file():
            return None
        state = load_checkpoint(str(self.path))
        if not isinstance(state, dict) or state.get("format") != RESUME_FORMAT:
            raise ValueError(
                f"{self.path} is not a resume file of this version (expected format "
                f"{RESUME_FORMAT}). Delete it to start the stream over."
            )
        with errors_of_state(self.path):
            self._check(state)
            self.trainer.load_stream_state(state["method"])
            self.earlier_seconds = state["seconds"]
            self.trainer.earlier_seconds += state["seconds"]
            return Stream.from_state(state["stream"])

    def _check(self, state: dict) -> None:
        trainer, fix = self.trainer, "Delete it to start over, or choose another --output-dir."
        check_same_config(trainer.cfg, config_of(state["config"], "its config"), self.path)
        if trainer.cfg.SEED < 0:
            torch.manual_seed(state["run_seed"])  # run_seed, order and views follow it
        check_same_stream(state["belongs_to"], self.belongs_to(), self.path, fix=fix)
        check_same_weights(state["fingerprint"], trainer.method, self.path, fix=fix)


def remove_resume_files(folder: str | Path) -> None:
    """The run has ended: no stream of it is to be continued."""
    for path in Path(folder).glob(RESUME_NAME.format(split="*")):
        path.unlink(missing_ok=True)
