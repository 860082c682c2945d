"""Read the few-shot draws that the original code keeps as pickles, without running their code.

The unpickler knows the class of the items, containers, strings and numbers; anything else in the
file is refused.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from .records import Record

ITEM = ("dassl.data.datasets.base_dataset", "Datum")


class PickledItem:
    """Stands for an item; holds its attributes without checking that the image exists."""

    _impath: str
    _label: int
    _domain: int
    _classname: str


class _ItemsOnly(pickle.Unpickler):
    """An unpickler that can build items and plain containers, nothing else."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) == ITEM:
            return PickledItem
        raise pickle.UnpicklingError(f"it contains {module}.{name}")


def read_pickled_draw(
    path: Path, train: Sequence[Record], val: Sequence[Record]
) -> tuple[list[Record], list[Record]]:
    """The records of ``train`` and ``val`` that the file drew.

    Absolute paths of another machine are matched by their ends.

    Raises:
        ValueError: if the file cannot be read or names images that the lists do not hold.
    """
    try:
        with open(path, "rb") as file:
            content = _ItemsOnly(file).load()
        drawn = {key: list(content.get(key, [])) for key in ("train", "val")}
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, IndexError) as err:
        raise ValueError(f"it is no pickled draw ({err})") from err
    return _match(drawn["train"], train), _match(drawn["val"], val)


def _match(items: Sequence[PickledItem], records: Sequence[Record]) -> list[Record]:
    by_path = {record.path: record for record in records}
    matched = []
    for item in items:
        if not isinstance(item, PickledItem):
            raise ValueError("it holds something that is no item")
        record = _find(item._impath, by_path)
        if record is None or (record.label, record.classname) != (item._label, item._classname):
            raise ValueError(f"{item._impath} is not in this split")
        matched.append(record)
    return matched


def _find(impath: str, by_path: dict[str, Record]) -> Record | None:
    parts = PurePosixPath(impath.replace("\\", "/")).parts
    for start in range(len(parts)):
        record = by_path.get("/".join(parts[start:]))
        if record is not None:
            return record
    return None
