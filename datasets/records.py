"""Splits as plain records: read and write ``split_zhou_<Class>.json``, rebuild a missing split.

A split file is ``{"train": [...], "val": [...], "test": [...]}`` with entries
``[relative path, label, class name]``; paths use forward slashes on every system. A rebuilt split
comes from sorted listings and a private ``random.Random(0)``, so every machine rebuilds the same
file; it is not the published split.
"""

import hashlib
import random
import reprlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dassl.utils import read_json, write_json

REBUILD_SEED = 0
TRAIN_FRACTION, VAL_FRACTION = 0.5, 0.2
SEE_SPLITS = "See DATASETS.md, section Split files, few-shot draws, class subsets."
SEE_SETS = "See DATASETS.md, section The eleven few-shot sets."
SPLITS = ("train", "val", "test")
MOST_GAPS = 10_000  # labels that a small set may leave out


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
    _check_labels(splits, path, hint)
    names: dict[int, str] = {}
    for record in (record for s in SPLITS for record in splits[s]):
        if names.setdefault(record.label, record.classname) != record.classname:
            raise ValueError(
                f"Split file {path}: label {record.label} has two class names, "
                f'"{names[record.label]}" and "{record.classname}". {hint}'
            )
    return splits


def _check_labels(splits: Splits, path: Path, hint: str) -> None:
    """Refuse labels that leave more gaps than there are images: one number is damaged."""
    records = [record for s in SPLITS for record in splits[s]]
    last = max(records, key=lambda record: record.label)
    if last.label >= max(len(records), MOST_GAPS):
        raise ValueError(
            f"Split file {path}: {reprlib.repr(list(last))} has a label beyond the number of "
            f"images ({len(records)}); labels count the classes from 0. {hint}"
        )


def _record(entry: object, split: str, path: Path, hint: str) -> Record:
    """One entry of a split file, checked."""
    record = as_record(entry)
    if record is None:
        raise ValueError(
            f'Split file {path}, list "{split}": {reprlib.repr(entry)} is not [path, label >= 0, '
            f"class name]. {hint}"
        )
    return record


def as_record(entry: object) -> Record | None:
    """An entry [path, label, class name] of a JSON file; None if it is of another form."""
    if not isinstance(entry, list) or len(entry) != 3:
        return None
    path, label, name = entry
    is_label = isinstance(label, int) and not isinstance(label, bool) and label >= 0
    if not is_label or not isinstance(path, str) or not isinstance(name, str) or "\0" in path:
        return None
    return Record(path.replace("\\", "/"), label, name)


def write_split_file(splits: Splits, path: Path) -> None:
    """Write a split file atomically, in the published format."""
    content = {s: [list(record) for record in splits[s]] for s in SPLITS}
    write_json(content, path)


def fingerprint(*lists: Iterable[Sequence]) -> str:
    """SHA-256 (hex) of item lists, order included."""
    digest = hashlib.sha256()
    for items in lists:
        for item in items:
            digest.update("\t".join(map(str, item)).encode(errors="surrogateescape") + b"\n")
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
    train: list[Record] = []
    val: list[Record] = []
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
