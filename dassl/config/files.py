"""Config files by their path: where they are, what they are based on, how messages name them.

`_BASE_: other.yaml`, or a list of files, in a config file names what it is based on. The bases are
merged first, in their order, and the file over them. A base is a path relative to the file that
names it, or to the repository; it may have bases of its own.

The recipes of a method stand in one file: an entry `rn50` under `files` of a folder's recipes.yaml
is what a file `rn50.yaml` in that folder would be, and that path names it. A real file of that name
comes first.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from dassl.utils.files import few_folders
from dassl.utils.text import did_you_mean

from .yaml_files import read_yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
RECIPES = "recipes.yaml"
BASE = "_BASE_"


class Layer(NamedTuple):
    """What one config sets by itself: the file, its entry there (or ""), and its settings."""

    file: Path
    entry: str
    content: dict[str, Any]

    @property
    def where(self) -> str:
        """The place, for messages."""
        return f"{shown(self.file)} ({self.entry})" if self.entry else shown(self.file)


def shown(path: Path) -> str:
    """Relative to the repository where possible: commands stay short and portable."""
    path = path.absolute()
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else str(path)


def is_config(path: Path) -> bool:
    """Whether a path names a file, or an entry of the recipes.yaml beside it."""
    return path.is_file() or (path.suffix == ".yaml" and path.stem in _entries(path.parent))


def config_names(folder: Path) -> list[str]:
    """Names of the configs in a folder, without `.yaml`."""
    files = {path.stem for path in folder.glob("*.yaml") if path.name != RECIPES}
    return sorted(files | set(_entries(folder)))


def find_yaml(given: str | Path) -> Path | None:
    """Absolute path of a config, given also relative to the repository; None if there is none."""
    return next(filter(is_config, (Path(given).absolute(), REPOSITORY / given)), None)


def existing_yaml(given: str | Path, flag: str) -> Path:
    """A config by its path, also relative to the repository.

    Raises:
        FileNotFoundError: naming the configs that look alike.
    """
    path = find_yaml(given)
    if path is None:
        raise _no_such_file(given, flag, Path.cwd())
    return path


def read_layers(path: Path, named_by: tuple[Path, ...] = ()) -> list[Layer]:
    """What a config sets, in merge order: its bases, each with its own, then the config itself.

    Args:
        path: names a file or an entry of a recipes.yaml.
        named_by: the configs whose base it is, outermost first.

    Raises:
        FileNotFoundError: a base that is not there; names the file that asks for it.
        ValueError: bases that go in a circle, or content that is not KEY: VALUE lines.
    """
    path = Path(os.path.normpath(path.absolute()))
    if path in named_by:
        circle = " -> ".join(map(shown, (*named_by[named_by.index(path) :], path)))
        raise ValueError(f"{BASE} goes in a circle: {circle}.")
    layer = _read(path)
    bases = layer.content.get(BASE) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{layer.where}: {BASE} is {bases!r}; expected a path, or a list of them.")
    layers = []
    for base in bases:
        found = next(filter(is_config, (layer.file.parent / base, REPOSITORY / base)), None)
        if found is None:
            raise _no_such_file(base, f"{layer.where}: {BASE}", layer.file.parent)
        layers += read_layers(found, (*named_by, path))
    own = {key: value for key, value in layer.content.items() if key != BASE}
    return [*layers, layer._replace(content=own)]


def read_mapping(path: Path) -> dict[str, Any]:
    """The KEY: VALUE lines of a YAML file, not to be changed by the caller.

    Raises:
        ValueError: if it holds something else, or is not YAML.
    """
    state = path.stat()
    return _read_mapping(path, (state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=512)
def _read_mapping(path: Path, state: tuple[int, int]) -> dict[str, Any]:
    return _mapping(read_yaml(path), shown(path))


def _mapping(content: object, where: str) -> dict[str, Any]:
    if not isinstance(content, dict | None):
        raise ValueError(f"{where} holds a {type(content).__name__}; expected KEY: VALUE lines.")
    _check_kinds(content or {}, where)
    return content or {}


def _check_kinds(content: dict[Any, Any], where: str) -> None:
    """Refuse what YAML reads as something else than a config holds: dates, bytes, sets, ..."""
    for key, value in content.items():
        if not isinstance(key, str):
            raise ValueError(f"{where}: {key!r} is not the name of a key. Put quotes around it.")
        if isinstance(value, dict):
            _check_kinds(value, where)
        elif not isinstance(value, (str, int, float, list, type(None))):
            raise ValueError(
                f"{where}: YAML reads the value of {key} as a {type(value).__name__} ({value}). "
                "Put quotes around it."
            )


def _entries(folder: Path) -> dict[str, Any]:
    """The configs that a folder's recipes.yaml holds, by name."""
    path = folder / RECIPES
    return _mapping(read_mapping(path).get("files"), f"{path} (files)") if path.is_file() else {}


def _read(path: Path) -> Layer:
    if path.name == RECIPES and _entries(path.parent):
        example = shown(path.with_stem(min(_entries(path.parent))))
        raise ValueError(f"{shown(path)} holds several recipes: name one of them, as {example}.")
    if path.is_file():
        return Layer(path, "", read_mapping(path))
    file, entry = path.parent / RECIPES, path.stem
    return Layer(file, entry, _mapping(_entries(path.parent)[entry], f"{shown(file)} ({entry})"))


def _no_such_file(given: str | Path, asked_by: str, start: Path) -> FileNotFoundError:
    """The error for a config that is not there, with those near it."""
    if os.path.exists(given):
        return FileNotFoundError(f"{asked_by} {given} is not a regular file; expected a YAML file.")
    folders = (start / Path(given).parent, REPOSITORY / Path(given).parent, CONFIGS)
    folder = Path(os.path.normpath(next((f for f in folders if f.is_dir()), CONFIGS)))
    inside = [
        place
        for place, _, files in few_folders(folder)
        if any(name.endswith(".yaml") for name in files)
    ]
    paths = (place / f"{name}.yaml" for place in inside for name in config_names(place))
    known = sorted(
        path.relative_to(start).as_posix() if path.is_relative_to(start) else shown(path)
        for path in paths
    )
    return FileNotFoundError(f"{asked_by} {given}: no such file. {did_you_mean(str(given), known)}")
