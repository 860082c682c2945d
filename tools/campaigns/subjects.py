"""The small commands that a campaign disturbs; each takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FEW_SHOT = ("DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "4")
MANY = ("--dataset", "toy_colors", "--shots", "1", "--no-check", "--workers", "2")


@dataclass(frozen=True)
class Subject:
    """A command by the folder that it writes to.

    Attributes:
        what: in words, for the table.
        words: the arguments of python.
        needs: a package that it needs.
        status: of its own, where something else than our commands gets the signals.
    """

    what: str
    words: Callable[[Path], Sequence[str]]
    needs: str = "torch"
    status: int = 0

    def command(self, output: Path) -> list[str]:
        """The whole command."""
        return [sys.executable, *self.words(output)]


def _train(output: Path) -> list[str]:
    words = [str(ROOT / "train.py"), "--dataset", "toy_colors", "--seed", "1"]
    return [*words, "--trainer", "MMA", "--output-dir", str(output / "run"), *FEW_SHOT]


def _ranks(output: Path) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *_train(output)]


def _protocol(output: Path) -> list[str]:
    words = [str(ROOT / "tools" / "protocol.py"), "fewshot", "--trainer", "TaskRes", *MANY]
    words += ["--seeds", "1 2", "--no-zeroshot", "--output", str(output)]
    return [*words, "OPTIM.MAX_EPOCH", "4"]


def _sweep(output: Path) -> list[str]:
    words = [str(ROOT / "tools" / "sweep.py"), "--executor", "ray", "--trainer", "TaskRes", *MANY]
    words += ["--seeds", "1", "--output", str(output), "--grid", "OPTIM.LR=0.001,0.002"]
    return [*words, "OPTIM.MAX_EPOCH", "4"]


SUBJECTS = {
    "run": Subject("a run (MMA)", _train),
    "protocol": Subject("a protocol, 2 local workers (TaskRes)", _protocol),
    "ray": Subject("a sweep on Ray, 2 workers (TaskRes)", _sweep, needs="ray"),
    "ranks": Subject("a run of 2 processes (MMA, gloo)", _ranks, status=1),  # torchrun's
}
