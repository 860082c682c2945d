"""Runs in several processes of this machine, as ``torchrun`` starts them, without its agent."""

import json
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.engine.command.cli import make_parser
from dassl.engine.command.run import run
from dassl.utils import load_checkpoint

SECONDS = 120  # that the processes of a test get


def whole_run(cfg: CfgNode) -> dict[str, Any] | None:
    """The run of a config, as ``train.py`` does it."""
    return run(make_parser().parse_args([]), cfg)


def in_ranks(count: int, act: Callable[[int], None], folder: Path) -> list[int | None]:
    """Call ``act`` with its rank in every one of ``count`` processes; their exit statuses.

    What they print is in ``folder/rank<r>.txt``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [(rank, count, port, act, folder) for rank in range(count)]
    processes = [fork.Process(target=_one_rank, args=given) for given in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    return [None if process in late else process.exitcode for process in processes]


def _one_rank(rank: int, count: int, port: int, act: Callable[[int], None], folder: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
    os.environ |= dict(zip(names, map(str, (rank, rank, count, port))))
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "VLTUNE_CACHE": str(folder / "cache")}
    with (folder / f"rank{rank}.txt").open("w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        try:
            act(rank)
        except BaseException:
            traceback.print_exc()
            raise SystemExit(1) from None


def losses_of(folder: Path) -> list[float]:
    """What a run has logged as ``loss``, in order, evaluations included."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def metrics_of(folder: Path) -> dict[str, Any]:
    """The metrics of a finished run."""
    return json.loads((folder / "results.json").read_text())["metrics"]


def weights_of(folder: Path) -> dict[str, Any]:
    """Tensors of the checkpoints of a run, by file and name."""
    files: Sequence[Path] = sorted(folder.glob("*/model*.pth.tar*"))
    return {
        f"{path.name} {name}": value
        for path in files
        for name, value in load_checkpoint(path)["state_dict"].items()
    }
