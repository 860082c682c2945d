"""The small commands that a campaign disturbs; each takes seconds.

Their images are few, so that a command spends its time on what a disturbance may spoil: starting,
training and keeping its state, not testing.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

ROOT = Path(__file__).resolve().parents[2]
COLORS = ("black", "red", "lime", "blue")  # the classes
IMAGES = 12  # of each
MANY = ("--shots", "2", "--no-check", "--workers", "2", "--recipe", "toy", "--backbone", "toy/ViT")
EPOCHS = ("OPTIM.MAX_EPOCH", "12")


@dataclass(frozen=True)
class Subject:
    """A command by the folder that it writes to.

    Attributes:
        what: in words, for the table.
        words: the arguments of python.
        needs: a package that it needs.
        statuses: of its own, where something else than our commands gets the signals.
    """

    what: str
    words: Callable[[Path], Sequence[str]]
    needs: str = "torch"
    statuses: tuple[int, ...] = ()

    def command(self, output: Path) -> list[str]:
        """The whole command."""
        return [sys.executable, *self.words(output)]


def _images(output: Path) -> str:
    """The dataset of all trials of a campaign, as train.py names it; made by the first."""
    folder = output.parents[1] / "images"
    for number, color in enumerate(COLORS if not folder.is_dir() else ()):
        (folder / color).mkdir(parents=True)
        noise = np.random.default_rng(number).integers(0, 64, (IMAGES, 32, 32, 3), dtype=np.uint8)
        for name, pixels in enumerate(noise | np.array(ImageColor.getrgb(color), np.uint8)):
            Image.fromarray(pixels).save(folder / color / f"{name}.png")
    return f"folder:{folder}"


def _train(output: Path) -> list[str]:
    words = [str(ROOT / "train.py"), "--dataset", _images(output), "--seed", "1", "--recipe", "toy"]
    words += ["--trainer", "MMA", "--output-dir", str(output / "run"), "--backbone", "toy/ViT"]
    return [*words, "DATASET.NUM_SHOTS", "2", *EPOCHS]


def _ranks(output: Path) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *_train(output)]


def _protocol(output: Path) -> list[str]:
    words = [str(ROOT / "tools" / "protocol.py"), "fewshot", "--trainer", "TaskRes", *MANY]
    words += ["--seeds", "1 2", "--no-zeroshot", "--output", str(output)]
    return [*words, "--dataset", _images(output), *EPOCHS]


def _sweep(output: Path) -> list[str]:
    words = [str(ROOT / "tools" / "sweep.py"), "--executor", "ray", "--trainer", "TaskRes", *MANY]
    words += ["--seeds", "1", "--output", str(output), "--grid", "OPTIM.LR=0.001,0.002"]
    return [*words, "--dataset", _images(output), *EPOCHS]


SUBJECTS = {
    "run": Subject("a run (MMA)", _train),
    "protocol": Subject("a protocol, 2 local workers (TaskRes)", _protocol),
    "ray": Subject("a sweep on Ray, 2 workers (TaskRes)", _sweep, needs="ray"),
    "ranks": Subject(
        "a run of 2 processes (MMA, gloo)",
        _ranks,
        statuses=(1, -signal.SIGUSR1),  # torchrun's (docs/distributed.md)
    ),
}
