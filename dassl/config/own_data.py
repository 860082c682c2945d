"""Datasets of one's own, named on a command line: ``folder:PATH[=NAME]``, ``csv:FILE[=NAME]``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dassl.utils.text import did_you_mean

from .files import CONFIGS

KINDS = ("folder:", "csv:")
EXPECTED = "folder:PATH or csv:FILE, followed by =NAME to give the set another name"
TABLES = (".csv", ".tsv")
SEPARATOR = re.compile(r"\s*,\s*|\s+(?=(?:folder|csv):)")


@dataclass(frozen=True)
class OwnSet:
    """A set of one's own.

    Attributes:
        spec: ``folder:PATH=NAME`` or ``csv:FILE=NAME``, with an absolute path.
        name: what output folders, tables and figures call it.
        root: the folder of the images, or of the table.
        table: the CSV file; None where a folder is read.
    """

    spec: str
    name: str
    root: Path
    table: Path | None = None

    @property
    def place(self) -> Path:
        """The folder or table itself."""
        return self.table or self.root


def is_own(dataset: str) -> bool:
    """Whether a dataset is given as a place, not by the name of a config."""
    return dataset.startswith(KINDS)


def own_set(dataset: str) -> OwnSet:
    """The set that ``folder:PATH[=NAME]`` or ``csv:FILE[=NAME]`` names.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: no path, a folder for a table or the other way round, a name that cannot be
            one.
    """
    kind, _, rest = dataset.partition(":")
    path, name = _path_and_name(rest)
    if not rest.partition("=")[0]:
        raise ValueError(f"--dataset {dataset} names no place; expected {EXPECTED}.")
    _check_place(kind, path, dataset)
    plain = path.stem if kind == "csv" else path.name
    name = _checked(name, dataset) if name else _name_of(plain)
    spec = f"{kind}:{path}={name}"
    if kind == "csv":
        return OwnSet(spec, name, path.parent, path)
    return OwnSet(spec, name, path)


def dataset_name(dataset: str) -> str:
    """What output folders and tables call a dataset: its config's name, or that of an own set."""
    return own_set(dataset).name if is_own(dataset) else dataset


def not_a_dataset(name: str, known: Iterable[str]) -> str:
    """What to say about a name that no dataset has: it may be a path, or misspelt."""
    path = Path(name).expanduser()
    if path.is_dir():
        return f'"{name}" is a folder; to read its images: folder:{name}'
    if path.is_file():
        return f'"{name}" is a file; to read the images that it lists: csv:{name}'
    own = "folder:PATH or csv:FILE for images of your own."
    return f'Unknown dataset "{name}". {did_you_mean(name, known)} Or {own}'


def split_datasets(text: str) -> list[str]:
    """Datasets between commas or blanks; the path of an own set may hold blanks."""
    parts = [part for part in SEPARATOR.split(text.strip()) if part]
    return [word for part in parts for word in ([part] if is_own(part) else part.split())]


def _path_and_name(text: str) -> tuple[Path, str]:
    """A path may hold "=": the name is what follows the last one where no such path exists."""
    whole = Path(text).expanduser().absolute()
    before, equals, name = text.rpartition("=")
    if not equals or whole.exists():
        return whole, ""
    return Path(before).expanduser().absolute(), name


def _check_place(kind: str, path: Path, given: str) -> None:
    if not path.exists():
        above = path.parent
        beside = sorted(entry.name for entry in above.iterdir()) if above.is_dir() else []
        beside = [name for name in beside if not name.startswith(".")][:5]
        holds = f"{above} holds {', '.join(beside) or 'nothing'}" if above.is_dir() else ""
        there = f" ({holds})" if holds else ""
        raise FileNotFoundError(
            f"--dataset {given}: there is no {path}{there}. Expected {EXPECTED}, as "
            f"--dataset {kind}:{'my_birds.csv' if kind == 'csv' else 'my_birds'}."
        )
    if kind == "csv" and path.is_dir():
        raise ValueError(
            f"--dataset {given}: {path} is a folder; expected a table with the columns path and "
            f"label. To read the folder: --dataset folder:{path}"
        )
    if kind == "folder" and path.is_file():
        way = f"To read the table: --dataset csv:{path}"
        advice = way if path.suffix.lower() in TABLES else f"Name its folder: folder:{path.parent}"
        raise ValueError(
            f"--dataset {given}: {path} is a file; expected a folder of class folders. {advice}"
        )


def _is_taken(name: str) -> bool:
    """Whether a name is, or begins like, that of a dataset with recipes and published numbers."""
    return name.startswith("toy_") or (CONFIGS / "datasets" / f"{name}.yaml").is_file()


def _checked(name: str, given: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(
            f'--dataset {given}: the name "{name}" is part of paths; expected letters, digits, '
            f'"_", "-" and ".", as ={_name_of(name)}.'
        )
    if _is_taken(name):
        raise ValueError(
            f'--dataset {given}: "{name}" is a dataset of the package; expected another name, as '
            f"=my_{name}."
        )
    return name


def _name_of(plain: str) -> str:
    """A name made of that of a folder or file."""
    name = re.sub(r"[^\w.-]+", "_", plain).strip("._-") or "own"
    return f"my_{name}" if _is_taken(name) else name
