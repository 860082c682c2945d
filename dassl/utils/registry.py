"""A name -> class table, filled by decorators."""

import ast
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .text import did_you_mean

logger = logging.getLogger(__name__)


class BrokenFile(NamedTuple):
    """A file that could not be imported, so that what it registers is missing."""

    name: str  # as "trainers/mine.py"
    text: str  # of the file
    reason: str  # "line 3: ModuleNotFoundError: No module named 'x'"
    error: Exception
    way: str = "Repair the file, or take it out of the folder."  # out of it


class Awaited(NamedTuple):
    """A class whose file is imported when somebody asks for it."""

    module: str
    files: Sequence[Path]  # one of them defines it
    load: Callable[[], BrokenFile | None]  # imports the module; what is wrong with it, if anything


class Registry:
    """Maps class names to classes.

    `@REGISTRY.register()` above a class, or `REGISTRY.register(cls)`, adds it under `__name__`. A
    name may be known before its file is imported (``expect``).

    Args:
        name: what errors call the table; files know it as ``<name>_REGISTRY``.
        is_own: tells the package's own classes from those of files that were put beside them. Of
            two classes with one name, the added one is used; without `is_own` that is an error.
    """

    def __init__(self, name: str, is_own: Callable[[Any], bool] | None = None):
        self.name = name
        self._objects: dict[str, Any] = {}
        self._replaced: dict[str, list[Any]] = {}  # name -> the classes that had it before
        self._is_own = is_own
        self._broken: list[BrokenFile] = []

    def register(self, obj: Any = None, force: bool = False) -> Callable | Any:
        """Add `obj`, or return a decorator that does.

        Raises:
            KeyError: the name is taken and `force` is False.
        """
        if obj is None:

            def decorator(decorated: Any) -> Any:
                self._add(decorated, force)
                return decorated

            return decorator
        self._add(obj, force)
        return obj

    def _add(self, obj: Any, force: bool) -> None:
        name = obj.__name__
        known = self._objects.get(name)
        if isinstance(known, Awaited):  # this class itself, or one that is needed to decide
            known = None if _is_from(known.module, obj) else self._loaded(name)
        if known is not None:
            chosen = obj if force else self._added_one(known, obj)
            if chosen is known:
                return
            self._replaced.setdefault(name, []).append(known)
        self._objects[name] = obj

    def _added_one(self, first: Any, second: Any) -> Any:
        """Of two classes with one name, the one that is not the package's own."""
        added = [obj for obj in (first, second) if self._is_own and not self._is_own(obj)]
        if len(added) != 1:
            raise KeyError(
                f'An object named "{second.__name__}" was already registered in "{self.name}" '
                f"(by {first.__module__}). Choose another name, or pass force=True."
            )
        own = first if added[0] is second else second
        logger.warning(
            "%s of %s replaces that of %s.", own.__name__, added[0].__module__, own.__module__
        )
        return added[0]

    def get(self, name: str) -> Any:
        """Return the class of that name.

        Raises:
            KeyError: there is none; names close matches.
            ImportError: it is defined in a file that could not be imported.
        """
        self.raise_if_broken(name)
        found = self._loaded(name)
        self.raise_if_broken(name)  # that import may have failed
        if found is None:
            raise KeyError(
                f'"{name}" is not registered in "{self.name}". '
                f"{did_you_mean(name, self.registered_names())}"
            )
        return found

    def check(self, name: str) -> None:
        """Raise an error if there is no usable class of that name.

        Raises:
            ValueError: there is none; names close matches.
            ImportError: it is defined in a file that could not be imported.
        """
        self.raise_if_broken(name)
        check_availability(name, self._objects)

    def registered_names(self) -> list[str]:
        """Return all names in the order of registration."""
        return list(self._objects)

    def __contains__(self, name: object) -> bool:
        return name in self._objects

    # ------------------------------------------------------------ files that are not imported yet
    def expect(self, name: str, awaited: Awaited) -> None:
        """Know a class by its name; its file is imported when somebody asks for the class."""
        self._objects.setdefault(name, awaited)

    def _loaded(self, name: str) -> Any | None:
        """The class of that name, after the import of its file; None if there is none."""
        found = self._objects.get(name)
        if not isinstance(found, Awaited):
            return found
        found.load()
        if self._objects.get(name) is found:  # the file does not register what it seemed to
            del self._objects[name]
        return self._objects.get(name)

    def snapshot(self) -> dict[str, Any]:
        """Name -> class, as it is now; imports every file that is awaited."""
        known = len(self._broken)
        for name in self.registered_names():
            self._loaded(name)
        for broken in self._broken[known:]:
            warn_of(broken)
        return dict(self._objects)

    def docstring(self, name: str) -> str:
        """The docstring of a class, read from its file where that is not imported yet."""
        found = self._objects.get(name)
        if not isinstance(found, Awaited):
            return found.__doc__ or ""
        for path in found.files:
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return ast.get_docstring(node) or ""
        return ""

    # --------------------------------------------------------------- files that cannot be imported
    def forget(self, module: str) -> None:
        """Undo what a module registered before its import failed."""
        for name, obj in list(self._objects.items()):
            if obj.module == module if isinstance(obj, Awaited) else _is_from(module, obj):
                del self._objects[name]
                if self._replaced.get(name):
                    self._objects[name] = self._replaced[name].pop()

    def add_broken(self, broken: BrokenFile) -> None:
        """Note a file that could not be imported, to explain what is missing."""
        self._broken.append(broken)

    def raise_if_broken(self, name: str) -> None:
        """Raise an ImportError if a file that could not be imported defines the class ``name``.

        Also where another file has a class of that name: the broken one was put there to replace
        it.
        """
        for broken in self._broken:
            if re.search(rf"^\s*class\s+{re.escape(name)}\b", broken.text, re.MULTILINE):
                raise ImportError(
                    f"{name} is in {broken.name}, which cannot be imported ({broken.reason}). "
                    f"{broken.way}"
                ) from broken.error


def _is_from(module: str, obj: Any) -> bool:
    """Whether a class is of a module, or of one below it."""
    return obj.__module__ == module or obj.__module__.startswith(f"{module}.")


def warn_of(broken: BrokenFile) -> None:
    """Name a file that is left out."""
    logger.warning("%s cannot be imported and is left out: %s", broken.name, broken.reason)


def check_availability(requested: str, available: Iterable[str]) -> None:
    """Raise a ValueError that names the closest of the available names, unless it is one."""
    available = list(available)
    if requested not in available:
        raise ValueError(f'"{requested}" is not available. {did_you_mean(requested, available)}')
