"""Runs that are finished, and commands that are known to mean one.

What a command line means is decided by the classes of trainers, whose files import torch: seconds,
for a run of which nothing is left to do. So a command that was found to mean a finished run leaves
a note. The same command with the same program and files gets the same answer, from the note.
"""

import argparse
import hashlib
import json
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.config.files import REPOSITORY, read_layers
from dassl.config.settings import SETS_IN_ROOT
from dassl.utils.files import cache_dir, write_json
from dassl.utils.text_files import read_json

from ..settings.flag_checks import given_files
from ..state.near_runs import runs_near
from .cli import available_cores

CONFIG_FILE = "config.yaml"
RESULTS_FILE = "results.json"
EVALUATION_FILE = "results_eval.json"  # where a folder already holds a training run's results
OF_RESULTS = {"metrics": dict, "selection": str, "labelled_images": dict}  # what is read again
NOTHING_TO_DO = (
    "This run is finished, nothing is repeated: see %s. Delete that folder to run again."
)
PROGRAM = ("clip", "configs", "dassl", "datasets", "trainers")  # what decides on a config


def find_finished(output: Path, evaluated: dict[str, Any] | None) -> dict[str, Any] | None:
    """The results of this very run, if the folder holds them."""
    for name in (RESULTS_FILE, EVALUATION_FILE) if evaluated is not None else (RESULTS_FILE,):
        results = read_results(output / name)
        if results and results.get("finished") and results.get("evaluated") == evaluated:
            return results
    return None


def read_results(path: Path) -> dict[str, Any] | None:
    """The results in a file, or None without one.

    Raises:
        ValueError: if it is damaged, or not what a run writes; says what to delete.
    """
    if not path.is_file():
        return None
    try:
        results = read_json(path)
        if not isinstance(results, dict) or not all(
            isinstance(results.get(key), kind) for key, kind in OF_RESULTS.items()
        ):
            raise ValueError(f"{path} lacks {', '.join(OF_RESULTS)}, which a run records.")
    except ValueError as err:
        way = "Delete it and run again, or restore it from a copy."
        raise ValueError(f"The results of a run are damaged: {err} {way}") from err
    return results


def describe_evaluated(args: argparse.Namespace) -> dict[str, Any] | None:
    """What --eval-only loads: folder, epoch, and size and time of the files, to see changes."""
    if not args.eval_only:
        return None
    folder, files = Path(args.model_dir or "."), []
    if args.model_dir:
        if not folder.exists():
            near = runs_near(folder)
            raise FileNotFoundError(f"--model-dir {folder}: no such folder. {near}".rstrip())
        files = sorted(path for path in folder.glob("*/model*.pth.tar*") if path.is_file())
        if folder.is_file():  # one checkpoint, for trainers that read such
            folder, files = folder.parent, [folder]
    return {
        "model_dir": args.model_dir,
        "load_epoch": args.load_epoch,
        "files": {path.relative_to(folder).as_posix(): _state(path)[-2:] for path in files},
    }


# --------------------------------------------------------------------- notes
def remember(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Note that a command means a finished run, which its config and its folder have shown.

    Not of images in a folder of one's own: what is there decides on settings, too.
    """
    output = Path(cfg.OUTPUT_DIR).absolute()
    is_known = (output / CONFIG_FILE).is_file()
    if os.environ.get("WORLD_SIZE") or cfg.DATASET.NAME in SETS_IN_ROOT or not is_known:
        return
    with suppress(OSError):  # a cache that cannot be written: the next start takes longer
        write_json({"output": str(output), "config": _digest_of_config(output)}, _note(args))


def recall(args: argparse.Namespace) -> tuple[Path, dict[str, Any]] | None:
    """Folder and results of the run that a command means, if it is known to be finished.

    None says nothing: whoever asks then has to find out. So processes that share a run do not ask.
    """
    if os.environ.get("WORLD_SIZE"):
        return None
    try:
        note = read_json(_note(args))
        output = Path(note["output"])
        results = find_finished(output, describe_evaluated(args))
        return (
            (output, results) if results and note["config"] == _digest_of_config(output) else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note(args: argparse.Namespace) -> Path:
    """Where the note on a command is: named by all that decides what the command means."""
    layers = [layer for file in given_files(args) for layer in read_layers(file)]
    about = {
        "arguments": vars(args),
        "folder": os.getcwd(),
        "machine": [sys.version, available_cores()],
        "program": _program(),
        "files": [_state(layer.file) for layer in layers],
        "evaluated": describe_evaluated(args),
    }
    text = json.dumps(about, sort_keys=True, default=str)
    return cache_dir() / "finished" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


@cache
def _program() -> list[list[Any]]:
    """The state of every source file and config of the package, when this process began."""
    return sorted(
        _state(Path(folder, file))
        for name in PROGRAM
        for folder, _, files in os.walk(REPOSITORY / name, followlinks=True)
        for file in files
        if file.endswith((".py", ".yaml"))
    )


def _state(path: Path) -> list[Any]:
    state = path.stat()
    return [str(path), state.st_size, state.st_mtime_ns]


def _digest_of_config(output: Path) -> str:
    return hashlib.sha256((output / CONFIG_FILE).read_bytes()).hexdigest()
