"""Packages that load a name from its file when it is first asked for.

What needs text or files alone (flags, configs, tables) then does not wait for torch.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazily(
    package: str, files: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: its name.
        files: file of the package -> names that the package offers from it.
    """
    file_of = {name: file for file, names in files.items() for name in names}

    def load(name: str) -> Any:
        if name in files:  # a file itself, as after ``import dassl.utils``
            return importlib.import_module(f"{package}.{name}")
        if name not in file_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{file_of[name]}"), name)

    return load, lambda: sorted({*file_of, *files}), sorted(file_of)
