"""Where scalars go: TensorBoard where it is installed, and ``metrics.jsonl``."""

import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dassl.utils.files import errors_of_writing

logger = logging.getLogger(__name__)
METRICS_FILE = "metrics.jsonl"


class SummaryWriter:
    """TensorBoard's writer, imported when it is made; without TensorBoard scalars are dropped.

    The same scalars are in ``metrics.jsonl`` in either case.
    """

    def __init__(self, log_dir: str | None = None, **kwargs: Any) -> None:
        self._writer = None
        try:
            from torch.utils.tensorboard import SummaryWriter as TensorBoardWriter
        except ImportError:
            logger.info(
                "TensorBoard is not installed (pip install tensorboard): scalars go to %s only.",
                METRICS_FILE,
            )
        else:
            self._writer = TensorBoardWriter(log_dir=log_dir, **kwargs)

    def add_scalar(
        self, tag: str, scalar_value: float, global_step: int | None = None, **kwargs: Any
    ) -> None:
        """Write one scalar."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step, **kwargs)

    def flush(self) -> None:
        """Write what is buffered."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


class MetricsLog:
    """``metrics.jsonl`` of a run: one object per line, full precision.

    Args:
        folder: the run's directory.
        start_epoch: the epoch to resume from, counted from 0; lines of later epochs, left by an
            interrupted attempt, are removed.
        start_batch: batches of that epoch that are done; their lines stay.
    """

    def __init__(self, folder: str | Path, start_epoch: int = 0, start_batch: int = 0) -> None:
        self.path = Path(folder) / METRICS_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = _lines_up_to(self.path, start_epoch, start_batch)
        self._file = self.path.open("w", encoding="utf-8")
        self._file.writelines(kept)
        self._file.flush()

    def write(self, **values: Any) -> None:
        """Append one line; numbers that JSON cannot hold (NaN, infinity) become null."""
        with errors_of_writing(self.path):
            self._file.write(json.dumps({k: _json_value(v) for k, v in values.items()}) + "\n")

    def flush(self) -> None:
        """Hand buffered lines to the operating system."""
        with errors_of_writing(self.path):
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with errors_of_writing(self.path):
            self._file.close()


def _lines_up_to(path: Path, last_epoch: int, batches: int) -> list[str]:
    """Complete lines of ``last_epoch`` (counted from 1) and before, and of batches after it."""
    if not (last_epoch or batches) or not path.is_file():
        return []
    kept, damaged = [], []
    data = path.read_bytes().decode("utf-8", "replace")
    *lines, _ = data.split("\n")  # the last was being written when the run was killed
    for number, line in enumerate(lines, start=1):
        place = _place_of(line)
        if place is None:
            damaged.append(number)
        elif place <= (last_epoch + 1, batches):
            kept.append(f"{line}\n")
    if damaged:
        text = "%d damaged lines of %s are left out, the first is line %d."
        logger.warning(text, len(damaged), path, damaged[0])
    return kept


def _place_of(line: str) -> tuple[float, float] | None:
    """Epoch (0 where it has none) and batch (infinity) of a line; None for a damaged line."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    place = (content.get("epoch", 0), content.get("batch", math.inf))
    return place if all(isinstance(part, int | float) for part in place) else None


def _json_value(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def peak_memory_bytes() -> int:
    """Largest memory of this process so far, bytes: on the GPU if one is used, else resident."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal (progress bars are shown only there)."""
    try:
        return os.isatty(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return False


def numbers_in(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Those metrics that are numbers, as floats."""
    found = {}
    for key, value in metrics.items():
        with contextlib.suppress(TypeError, ValueError):
            found[key] = float(value)
    return found
