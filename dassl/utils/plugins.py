"""The files of a package that fill a registry: known by name, imported when they are asked for.

One file that cannot be imported does not stop the others.
"""

import importlib
import importlib.util
import pkgutil
import re
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from .registry import Awaited, BrokenFile, Registry, warn_of

REGISTERS = re.compile(r"\.register\(")
DECORATED = r"^@{}_REGISTRY\.register\(\)\n(?:@.*\n)*class (\w+)"


def import_files(
    package: str, folders: Iterable[str], registry: Registry, *, skip: Collection[str] = ()
) -> None:
    """Make known what lies in the folders of a package, files and packages, sorted by name.

    A file whose classes stand under ``@NAME_REGISTRY.register()`` is imported when one of them is
    asked for; any other file, and one with a class that another file has, too, at once. One that
    cannot be imported is named in a warning, or in the error for whoever asks for a class of it.

    Args:
        package: its name.
        folders: its ``__path__``.
        registry: where the files register their classes.
        skip: names that are not imported.
    """
    for module, path in _modules(package, folders):
        if module.rpartition(".")[2] in skip:
            continue
        files = sorted(path.parent.rglob("*.py")) if path.stem == "__init__" else [path]
        names = registered_in(files, registry.name)
        load = partial(_load, package, module, path, registry)
        if not names or set(names) & set(registry.registered_names()):
            if broken := load():
                warn_of(broken)
            continue
        for name in names:
            registry.expect(name, Awaited(module, files, load))


def registered_in(files: Sequence[Path], registry: str) -> list[str]:
    """Names of the classes that files register; none if only an import can tell.

    Args:
        files: their texts are read.
        registry: its name; ``X`` where files call it ``X_REGISTRY``.
    """
    decorated = re.compile(DECORATED.format(registry), re.MULTILINE)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    names = [name for text in texts for name in decorated.findall(text)]
    return names if len(names) == sum(len(REGISTERS.findall(text)) for text in texts) else []


def _load(package: str, module: str, path: Path, registry: Registry) -> BrokenFile | None:
    """Import a file; where that fails, undo and note what it registered."""
    try:
        _import(module, path)
    except Exception as err:  # anything can be wrong in a file that somebody put there
        registry.forget(module)
        broken = _describe(package, path, err)
        registry.add_broken(broken)
        return broken
    return None


def _modules(package: str, folders: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """Module name and file of everything in the folders."""
    for folder in map(Path, folders):
        for found in pkgutil.iter_modules([str(folder)]):
            module, file = f"{package}.{found.name}", folder / f"{found.name}.py"
            if found.ispkg:
                yield module, folder / found.name / "__init__.py"
            if file.is_file():  # beside a package of its name, which Python prefers: renamed
                yield module + "_py" * found.ispkg, file


def _import(module: str, path: Path) -> None:
    if path.stem in ("__init__", module.rpartition(".")[2]):
        importlib.import_module(module)
        return
    spec = importlib.util.spec_from_file_location(module, path)
    assert spec is not None and spec.loader is not None  # path is a Python file
    sys.modules[module] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[module])
    except BaseException:
        del sys.modules[module]
        raise


def _describe(package: str, path: Path, err: Exception) -> BrokenFile:
    name = f"{package}/{path.parent.name if path.stem == '__init__' else path.name}"
    line = _line(path, err)
    where = f"line {line}: " if line else ""
    message = err.args[0] if isinstance(err, KeyError) and err.args else err
    text = path.read_text(encoding="utf-8", errors="replace")
    broken = BrokenFile(name, text, f"{where}{type(err).__name__}: {message}", err)
    return broken._replace(way=_what_is_missing(package, err) or broken.way)


def _what_is_missing(package: str, err: Exception) -> str:
    """What to do where an import finds no neighbour, too little in one, or no package."""
    if not isinstance(err, ImportError) or not err.name:
        return ""
    sibling = err.name.removeprefix(f"{package}.")
    if sibling != err.name:
        file, folder = f"{sibling.replace('.', '/')}.py", package.rpartition(".")[2]
        return f"Copy {file} of the repository that it comes from into {folder}/, too."
    if not isinstance(err, ModuleNotFoundError):
        return ""
    folder = err.name.partition(".")[0]
    return (
        f"Install {folder} (pip install {folder}); if it is a folder or file of the repository "
        "that the file comes from, run the file there (docs/compatibility.md)."
    )


def _line(path: Path, err: Exception) -> int | None:
    """The last line of the file that an error passed."""
    if isinstance(err, SyntaxError) and err.filename == str(path):
        return err.lineno
    frames = traceback.extract_tb(err.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return lines[-1] if lines else None
