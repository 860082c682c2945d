"""A name -> class table, filled by decorators."""

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .text import did_you_mean

logger = logging.getLogger(__name__)


class BrokenFile(NamedTuple):
    """A file that could not be imported, so that what it registers is missing."""

    name: str  # as "trainers/mine.py"
    text: str  # of the file
    reason: str  # "line 3: ModuleNotFoundError: No module named 'x'"
    error: Exception


class Registry:
    """Maps class names to classes.

    `@REGISTRY.register()` above a class, or `REGISTRY.register(cls)`, adds it under `__name__`.

    Args:
        name: what errors call the table.
        is_own: tells the package's own classes from those of files that were put beside them. Of
            two classes with one name, the added one is used; without `is_own` that is an error.
    """

    def __init__(self, name: str, is_own: Callable[[Any], bool] | None = None):
        self._name = name
        self._objects: dict[str, Any] = {}
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
        if name in self._objects and not force:
            obj = self._added_one(self._objects[name], obj)
        self._objects[name] = obj

    def _added_one(self, first: Any, second: Any) -> Any:
        """Of two classes with one name, the one that is not the package's own."""
        added = [obj for obj in (first, second) if self._is_own and not self._is_own(obj)]
        if len(added) != 1:
            raise KeyError(
                f'An object named "{second.__name__}" was already registered in "{self._name}" '
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
        if name not in self._objects:
            raise KeyError(
                f'"{name}" is not registered in "{self._name}". '
                f"{did_you_mean(name, self.registered_names())}"
            )
        return self._objects[name]

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

    # --------------------------------------------------------------- files that cannot be imported
    def snapshot(self) -> dict[str, Any]:
        """Name -> class, as it is now."""
        return dict(self._objects)

    def forget(self, module: str, before: dict[str, Any]) -> None:
        """Undo what a module registered since the snapshot, before its import failed."""
        for name in [n for n, obj in self._objects.items() if obj.__module__ == module]:
            del self._objects[name]
            if name in before:
                self._objects[name] = before[name]

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
                    "Repair the file, or take it out of the folder."
                ) from broken.error


def check_availability(requested: str, available: Iterable[str]) -> None:
    """Raise a ValueError that names the closest of the available names, unless it is one."""
    available = list(available)
    if requested not in available:
        raise ValueError(f'"{requested}" is not available. {did_you_mean(requested, available)}')
