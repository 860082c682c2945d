"""Kinds of cached things: where they lie, what to say about one, how to check one.

A file counts only where its name is one that a run gives: with VLTUNE_CACHE set to a wrong folder,
nothing of others is counted or removed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dassl.features.store import RECORD, Store
from dassl.utils.text_files import read_json

HEX = "[0-9a-f]"
ABOUT = "about.json"


def _name(path: Path) -> str:
    return path.name


def _of_rows(folder: Path) -> str:
    """Number of rows of a store."""
    rows = sum(file.stat().st_size for file in folder.glob("*.index")) // RECORD.itemsize
    return f"{rows} rows"


def _of_bank(folder: Path) -> str:
    """Encoder, views and number of rows of a folder of features."""
    rows = _of_rows(folder)
    try:
        about = read_json(folder / ABOUT)
        views = about["views"].get("is_train")
        kind = "views" if views is None else "training views" if views else "test view"
        return f"{about['encoder']}, {kind}, {rows}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{folder.parent.name}, {rows}"


def _of_resized(path: Path) -> str:
    """Number and size of resized images, and the folder that they come from."""
    try:
        count, _, height, width = np.load(path, mmap_mode="r").shape
        text = f"{count} images of {width} x {height}"
    except (OSError, ValueError, EOFError):
        return "damaged"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        text += f" from {read_json(path.with_suffix('.json'))['images']}"
    return text


def _check_bank(folder: Path) -> str | None:
    """Compare every row with its checksum."""
    try:
        dim = read_json(folder / ABOUT)["dim"]
    except FileNotFoundError:  # its first writer was stopped
        return None
    rows = Store(folder, dim).rows
    damaged = rows.verify(np.arange(len(rows.keys())))
    return f"{damaged} of {len(rows.keys())} rows" if damaged else ""


def _check_resized(path: Path) -> str:
    np.load(path, mmap_mode="r")
    return ""


def _check_images(folder: Path) -> str:
    """PNG files have a checksum in every chunk."""
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            image.verify()
    return ""


def _check_tensor(path: Path) -> str:
    import torch

    torch.load(path, weights_only=True)
    return ""


def _check_json(path: Path) -> str:
    for file in path.rglob("*.json") if path.is_dir() else [path]:
        read_json(file)
    return ""


def _check_database(path: Path) -> str:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        (answer,) = database.execute("PRAGMA quick_check").fetchone()
    return "" if answer == "ok" else answer


@dataclass(frozen=True)
class Kind:
    """One kind of cached things.

    Attributes:
        about: a few words.
        pattern: of its files, or of folders that belong together, below the cache folder.
        describe: what one is, for the list.
        check: "" where one is sound, what is damaged, or None where that cannot be known; None in
            place of the function where nothing tells.
        is_pruned: whether ``prune`` may remove it; what took money or decides which images a run
            draws goes with ``clear`` alone.
    """

    about: str
    pattern: str
    describe: Callable[[Path], str] = _name
    check: Callable[[Path], str | None] | None = None
    is_pruned: bool = True


KINDS = {
    "features": Kind(
        "features of images", f"features/*-{HEX * 20}-v*/{HEX * 20}", _of_bank, _check_bank
    ),
    "sentences": Kind("features of frozen sentences", f"sentences/{HEX * 32}", _of_rows),
    "identities": Kind("which image has which content", f"features/identities/*-*-{HEX * 8}.ids"),
    "readable": Kind("which images can be read", f"readable/*/*-*-{HEX * 8}.ids"),
    "resized": Kind("resized images", f"resized/{HEX * 32}.npy", _of_resized, _check_resized),
    "toy": Kind("rendered toy sets", f"toy/{HEX * 12}/*", _name, _check_images),
    "listings": Kind("lists of images", f"listings/*-{HEX * 16}.json", _name, _check_json),
    "texts": Kind("class names as teachers encode them", f"texts/{HEX * 32}.pt", _name,
                  _check_tensor),
    "draws": Kind("few-shot draws of your own images", f"draws/*-{HEX * 12}", _name, _check_json,
                  is_pruned=False),
    "teacher": Kind("answers of teachers over HTTP", f"teacher/{HEX * 16}.sqlite", _name,
                    _check_database, is_pruned=False),
    "weights": Kind("downloaded weights", "weights/r-50-*ep.pth.tar"),
    "finished": Kind("commands of finished runs", f"finished/{HEX * 32}.json", _name, _check_json),
    "environment": Kind("reports on the environment", f"environment/{HEX * 16}.txt"),
}  # fmt: skip


@contextlib.contextmanager
def not_counted_as_use(files: list[Path]) -> Iterator[None]:
    """Give files their times back after reading them for a list or a check."""
    times = {file: file.stat() for file in files}
    try:
        yield
    finally:
        for file, stat in times.items():
            with contextlib.suppress(OSError):  # another user's
                os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
