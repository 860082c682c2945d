"""Splits as plain records: read and write ``split_zhou_<Class>.json``, rebuild a missing split.

A split file is ``{"train": [...], "val": [...], "test": [...]}`` with entries
``[relative path, label, class name]``; paths use forward slashes on every system. A rebuilt split
comes from sorted listings and a private ``random.Random(0)``, so every machine rebuilds the same
file; it is not the published split.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dassl.utils import atomic_write, read_json

REBUILD_SEED = 0
TRAIN_FRACTION, VAL_FRACTION = 0.5, 0.2
SEE_SPLITS = "See DATASETS.md, section Split files, few-shot draws, class subsets."
SEE_SETS = "See DATASETS.md, section The eleven few-shot sets."
SPLITS = ("train", "val", "test")


class Record(NamedTuple):
    """One labelled image: path relative to the image folder (POSIX), 0-based label, class name."""

    path: str
    label: int
    classname: str


Splits = dict[str, list[Record]]


def read_split_file(path: Path) -> Splits:
    """Read and check a split file.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is damaged or not a split file.
    """
    hint = f"Fetch it again, or delete it to have the split rebuilt. {SEE_SPLITS}"
    try:
        content = read_json(path)
    except FileNotFoundError as err:
        raise FileNotFoundError(f"No split file {path}. {SEE_SPLITS}") from err
    except ValueError as err:
        raise ValueError(f"Split file {err}. {hint}") from err
    if not isinstance(content, dict) or not all(isinstance(content.get(s), list) for s in SPLITS):
        raise ValueError(f'Split file {path} needs the lists "train", "val", "test". {hint}')
    splits = {s: [_record(entry, s, path, hint) for entry in content[s]] for s in SPLITS}
    for s in ("train", "test"):
        if not splits[s]:
            raise ValueError(f'Split file {path}: the list "{s}" is empty. {hint}')
    names: dict[int, str] = {}
    for record in (record for s in SPLITS for record in splits[s]):
        if names.setdefault(record.label, record.classname) != record.classname:
            raise ValueError(
                f"Split file {path}: label {record.label} has two class names, "
                f'"{names[record.label]}" and "{record.classname}". {hint}'
            )
    return splits


def _record(entry: object, split: str, path: Path, hint: str) -> Record:
    """One entry of a split file, checked."""
    if (
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], str)
        and isinstance(entry[1], int)
        and entry[1] >= 0
        and isinstance(entry[2], str)
    ):
        return Record(entry[0].replace("\\", "/"), entry[1], entry[2])
    raise ValueError(
        f'Split file {path}, list "{split}": {entry!r} is not [path, label >= 0, class name]. '
        f"{hint}"
    )


def write_split_file(splits: Splits, path: Path) -> None:
    """Write a split file atomically, in the published format."""
    content = {s: [list(record) for record in splits[s]] for s in SPLITS}
    with atomic_write(path) as temporary:
        Path(temporary).write_text(
            json.dumps(content, indent=4, separators=(",", ": ")), encoding="utf-8"
        )


def fingerprint(*lists: Iterable[Sequence]) -> str:
    """SHA-256 (hex) of item lists, order included."""
    digest = hashlib.sha256()
    for items in lists:
        for item in items:
            digest.update("\t".join(map(str, item)).encode() + b"\n")
        digest.update(b"\n")
    return digest.hexdigest()


def split_by_fractions(
    classes: dict[str, list[str]],
    *,
    names: dict[str, str] | None = None,
    p_train: float = TRAIN_FRACTION,
    p_val: float = VAL_FRACTION,
    shuffle: Callable[[list], None] | None = None,
) -> Splits:
    """Rule P: per class shuffle; round(p_train n) train, round(p_val n) val, the rest test.

    Args:
        classes: class folder (or name) -> paths; the order of the keys gives the labels.
        names: class folder -> class name, where it differs.
        shuffle: shuffles a list in place; default a private generator with seed 0.
    """
    shuffle = shuffle or random.Random(REBUILD_SEED).shuffle
    splits: Splits = {s: [] for s in SPLITS}
    for label, (folder, paths) in enumerate(classes.items()):
        paths = list(paths)
        shuffle(paths)
        n_train, n_val = round(len(paths) * p_train), round(len(paths) * p_val)
        if min(n_train, n_val, len(paths) - n_train - n_val) <= 0:
            raise ValueError(
                f'Class "{folder}" has {len(paths)} images: too few for a train, val and test '
                f"part. Is the folder complete? {SEE_SETS}"
            )
        name = (names or {}).get(folder, folder)
        parts = {
            "train": paths[:n_train],
            "val": paths[n_train : n_train + n_val],
            "test": paths[n_train + n_val :],
        }
        for s in SPLITS:
            splits[s].extend(Record(path, label, name) for path in parts[s])
    return splits


def split_train_val(
    items: Sequence,
    p_val: float = VAL_FRACTION,
    *,
    shuffle: Callable[[list], None] | None = None,
) -> tuple[list, list]:
    """Rule V: per class (first-occurrence order) shuffle; the first round(p_val n) are val.

    ``items`` are anything with a ``label``; the default generator is private, with seed 0.
    """
    shuffle = shuffle or random.Random(REBUILD_SEED).shuffle
    groups: dict[int, list] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    train, val = [], []
    for label, group in groups.items():
        n_val = round(len(group) * p_val)
        if n_val <= 0:
            raise ValueError(
                f"Label {label} has {len(group)} images: too few for a validation part. "
                f"Is the list complete? {SEE_SETS}"
            )
        order = list(range(len(group)))
        shuffle(order)
        val.extend(group[i] for i in order[:n_val])
        train.extend(group[i] for i in order[n_val:])
    return train, val
