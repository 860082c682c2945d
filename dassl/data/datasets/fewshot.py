"""The few-shot draw and its record on disk.

The draw is the original's for a seed: Python's generator seeded with it, training classes first, in
the order of their first occurrence. It is written to `shot_<n>-seed_<s>.json`: readable, relative
to the data folder, with a digest of the split it was drawn from, so that a record of another split
is noticed. Records of the original (`.pkl`) are read, too, without running code from them.
"""

import hashlib
import io
import json
import logging
import os
import pickle
import random
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dassl.utils.files import atomic_write, read_json

from .base_dataset import Datum
from .draw import draw_shots

logger = logging.getLogger(__name__)

DEFAULT_VAL_SHOTS = 4
_FORMAT = 1
_SPLITS = ("train", "val")


def fewshot_split(
    train: Sequence[Datum],
    val: Sequence[Datum] | None = None,
    *,
    num_shots: int,
    seed: int,
    folder: str | os.PathLike,
    root: str | os.PathLike,
    val_shots: int = DEFAULT_VAL_SHOTS,
    repeat: bool = False,
) -> tuple[Sequence[Datum], Sequence[Datum] | None]:
    """Return the few-shot training and validation lists of a seed; record them in `folder`.

    The draw depends on the pools, `num_shots` and `seed` alone, and leaves the global generators
    untouched, whether or not a record exists. With `seed` < 0 it comes from the global generator,
    and nothing is read or written.

    Args:
        train: all training items, in the order of the split file.
        val: all validation items, or None.
        num_shots: images per class; < 1 returns both lists as they are.
        seed: `cfg.SEED`.
        folder: where records lie (`split_fewshot`).
        root: data folder that recorded paths are relative to.
        val_shots: `DATASET.VAL_SHOTS`: validation takes min(num_shots, val_shots) per class;
            < 1 keeps the whole list.
        repeat: fill small classes up by drawing twice.
    """
    if num_shots < 1:
        return train, val
    if seed < 0:
        return _draw(train, val, num_shots, val_shots, random, repeat)
    record = Path(folder) / record_name(num_shots, seed, val_shots=val_shots, repeat=repeat)
    pools = {"train": _Pool(train, root), "val": _Pool(val or (), root)}
    digest = split_digest(pools)
    if record.is_file():
        stored = _from_record(record, pools, digest)
        if stored is not None:
            return _whole_val(stored, val, val_shots)
    foreign = Path(folder) / f"shot_{num_shots}-seed_{seed}.pkl"
    stored = None
    if foreign.is_file() and not repeat and val_shots in (DEFAULT_VAL_SHOTS, -1):
        stored = _from_pickle(foreign, pools, has_val=val is not None)
    if stored is None:
        shots = _draw(train, val, num_shots, val_shots, random.Random(seed), repeat)
    else:
        shots = _whole_val(stored, val, val_shots)
    _write_record(record, shots, pools, digest, num_shots=num_shots, seed=seed, val_shots=val_shots)
    return shots


def record_name(
    num_shots: int, seed: int, *, val_shots: int = DEFAULT_VAL_SHOTS, repeat: bool = False
) -> str:
    """Return the file name of a record: `shot_16-seed_1.json`; other rules are named in it."""
    rule = "" if val_shots == DEFAULT_VAL_SHOTS else f"-val_{max(val_shots, -1)}"
    return f"shot_{num_shots}-seed_{seed}{rule}{'-repeat' if repeat else ''}.json"


def _draw(train, val, num_shots, val_shots, rng, repeat):
    train_shots = draw_shots(train, num_shots, rng=rng, repeat=repeat)
    if val is None or val_shots < 1:
        return train_shots, val
    return train_shots, draw_shots(val, min(num_shots, val_shots), rng=rng, repeat=repeat)


def _whole_val(shots, val, val_shots):
    """Return the stored lists, with the whole validation list where no draw is wanted."""
    return (shots[0], val) if val is None or val_shots < 1 else shots


class _Pool:
    """Items of one list, found by relative path and label."""

    def __init__(self, items: Iterable[Datum], root: str | os.PathLike):
        prefix = os.path.join(os.path.abspath(root), "")
        self.items = list(items)
        self.paths = []
        for item in self.items:
            path = item.impath
            if not path.startswith(prefix):
                path = os.path.abspath(path)
            if path.startswith(prefix):
                path = path[len(prefix) :]
            self.paths.append(path.replace(os.sep, "/"))
        self._by_key: dict[tuple[str, int], Datum] | None = None

    def get(self, path: str, label: int) -> Datum | None:
        """Return the item with this relative path and label."""
        if self._by_key is None:
            keys = ((path, item.label) for path, item in zip(self.paths, self.items))
            self._by_key = dict(zip(keys, self.items))
        return self._by_key.get((path, label))

    def get_moved(self, path: str, label: int) -> Datum | None:
        """Return the item whose relative path ends a path of another machine."""
        parts = path.replace("\\", "/").split("/")
        candidates = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((item for c in candidates if (item := self.get(c, label))), None)

    def path_of(self, item: Datum) -> str:
        """Return the relative path of one of the items."""
        return self._names()[id(item)]

    def _names(self) -> dict[int, str]:
        if not hasattr(self, "_by_id"):
            self._by_id = {id(item): path for item, path in zip(self.items, self.paths)}
        return self._by_id


def split_digest(pools: dict[str, "_Pool"]) -> str:
    """Return a hex digest of all paths, labels and names, in order, of both lists."""
    digest = hashlib.sha256()
    for name, pool in pools.items():
        lines = [f"{path}\t{i.label}\t{i.classname}" for path, i in zip(pool.paths, pool.items)]
        digest.update("\n".join([name, *lines, ""]).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _from_record(record: Path, pools: dict[str, _Pool], digest: str):
    """Return the recorded lists, or None (with a warning) if they belong to another split."""
    content = read_json(record)
    if content.get("format") != _FORMAT or content.get("split_digest") != digest:
        logger.warning("%s was drawn from another split of the data; drawing anew.", record)
        return None
    shots = [[pools[name].get(path, label) for path, label, _ in content[name]] for name in _SPLITS]
    if any(item is None for items in shots for item in items):
        logger.warning("%s names images that the split does not have; drawing anew.", record)
        return None
    return tuple(shots)


def _from_pickle(path: Path, pools: dict[str, _Pool], *, has_val: bool):
    """Return the lists of an original's record, or None (with a warning) if they do not fit."""
    try:
        content = read_datum_pickle(path)
    except ValueError as err:
        logger.warning("%s Drawing anew.", err)
        return None
    shots = []
    for name in _SPLITS:
        items = content.get(name) or [] if name == "train" or has_val else []
        shots.append([pools[name].get_moved(item.impath, item.label) for item in items])
    if not shots[0] or has_val and not shots[1] or any(i is None for s in shots for i in s):
        logger.warning("%s does not fit the split of the data; drawing anew.", path)
        return None
    return tuple(shots)


def _write_record(record, shots, pools, digest, *, num_shots, seed, val_shots) -> None:
    """Write one item per line: [relative path, label, class name]."""
    head = {"format": _FORMAT, "num_shots": num_shots, "seed": seed, "val_shots": val_shots}
    head["split_digest"] = digest
    lines = [f'  "{key}": {json.dumps(value)},' for key, value in head.items()]
    for name, items in zip(_SPLITS, shots):
        if name == "val" and val_shots < 1:
            items = []
        rows = ",\n".join(
            "    " + json.dumps([pools[name].path_of(item), item.label, item.classname])
            for item in items or []
        )
        body = f"[\n{rows}\n  ]" if rows else "[]"
        lines.append(f'  "{name}": {body}{"," if name == "train" else ""}')
    try:
        with atomic_write(record) as temporary:
            temporary.write_text("{\n" + "\n".join(lines) + "\n}\n", encoding="utf-8")
    except OSError as err:
        logger.warning("The draw cannot be recorded as %s: %s", record, err)


class _DatumUnpickler(pickle.Unpickler):
    """Admits `Datum`, containers, strings and numbers; nothing else, no code."""

    _ALLOWED = {
        ("dassl.data.datasets.base_dataset", "Datum"): Datum,
        ("collections", "OrderedDict"): OrderedDict,
        ("collections", "defaultdict"): defaultdict,
        ("builtins", "list"): list,
        ("builtins", "dict"): dict,
        ("builtins", "set"): set,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return an admitted class."""
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it holds a {module}.{name}")
        return self._ALLOWED[module, name]


def read_datum_pickle(path: str | os.PathLike) -> Any:
    """Return the content of a pickle of `Datum` lists, as the original's files hold them.

    Raises:
        ValueError: the file is damaged, or holds anything but Datum, containers and plain values.
    """
    try:
        return _DatumUnpickler(io.BytesIO(Path(path).read_bytes())).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, TypeError) as err:
        raise ValueError(f"{path} is no record of images and labels ({err}); not read.") from err
