"""Read the few-shot draws that the original code keeps as pickles, without running their code.

The unpickler knows the class of the items, containers, strings and numbers; anything else in the
file is refused.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from .records import SEE_SPLITS, Record

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


def read_pickled_draw(path: Path) -> tuple[list[PickledItem], list[PickledItem]]:
    """The training and validation items that the file holds.

    Raises:
        ValueError: if the file is not a pickled draw.
    """
    try:
        with open(path, "rb") as file:
            content = _ItemsOnly(file).load()
        train, val = (list(content.get(key, [])) for key in ("train", "val"))
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, LookupError) as err:
        raise ValueError(f"it is not a pickled draw ({err})") from err
    attributes = set(PickledItem.__annotations__)
    for item in (*train, *val):
        if not isinstance(item, PickledItem) or not attributes <= set(vars(item)):
            raise ValueError("it holds something that is not an item")
    return train, val


def match_items(
    items: Sequence[PickledItem], records: Sequence[Record], path: Path
) -> list[Record]:
    """The records of a split that a file's items stand for.

    Absolute paths of another machine are matched by their ends.

    Raises:
        ValueError: naming the file, the first item that the split does not have, and the way out.
    """
    by_path = {record.path: record for record in records}
    matched = []
    for item in items:
        record = _find(item._impath, by_path)
        if record is None or (record.label, record.classname) != (item._label, item._classname):
            said = f"the split has {list(record)}" if record else "the split has no such image"
            raise ValueError(
                f"The few-shot draw {path} holds {[item._impath, item._label, item._classname]}, "
                f"but {said}. It was drawn from another split: fetch that one, or delete "
                f"{path} to have the shots drawn again. {SEE_SPLITS}"
            )
        matched.append(record)
    return matched


def _find(impath: str, by_path: dict[str, Record]) -> Record | None:
    parts = PurePosixPath(impath.replace("\\", "/")).parts
    for start in range(len(parts)):
        record = by_path.get("/".join(parts[start:]))
        if record is not None:
            return record
    return None
