"""A name -> class table, filled by decorators."""

from collections.abc import Callable, Iterable
from typing import Any

from .text import did_you_mean


class Registry:
    """Maps class names to classes.

    `@REGISTRY.register()` above a class, or `REGISTRY.register(cls)`, adds it under `__name__`.
    """

    def __init__(self, name: str):
        self._name = name
        self._objects: dict[str, Any] = {}

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
            raise KeyError(
                f'An object named "{name}" was already registered in "{self._name}" '
                f"(by {self._objects[name].__module__}). Choose another name, or pass force=True."
            )
        self._objects[name] = obj

    def get(self, name: str) -> Any:
        """Return the class of that name; KeyError with close matches if there is none."""
        if name not in self._objects:
            raise KeyError(
                f'"{name}" is not registered in "{self._name}". '
                f"{did_you_mean(name, self.registered_names())}"
            )
        return self._objects[name]

    def registered_names(self) -> list[str]:
        """Return all names in the order of registration."""
        return list(self._objects)

    def __contains__(self, name: object) -> bool:
        return name in self._objects


def check_availability(requested: str, available: Iterable[str]) -> None:
    """Raise a ValueError that names the closest of the available names, unless it is one."""
    available = list(available)
    if requested not in available:
        raise ValueError(f'"{requested}" is not available. {did_you_mean(requested, available)}')
