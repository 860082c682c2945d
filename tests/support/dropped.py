"""Put trainer files beside those of ``trainers``, as a user does, for the length of a test."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import trainers
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.plugins import import_files


@contextmanager
def dropped(folder: Path, **files: str) -> Iterator[None]:
    """Import files, module name -> text, from a folder that counts as ``trainers``."""
    target = folder / "trainers"
    target.mkdir(exist_ok=True)
    for name, text in files.items():
        (target / f"{name}.py").write_text(text, encoding="utf-8")
    before, broken = TRAINER_REGISTRY.snapshot(), list(TRAINER_REGISTRY._broken)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "__path__", [str(target), *trainers.__path__])
        patch.setattr(TRAINER_REGISTRY, "_objects", before)
        patch.setattr(TRAINER_REGISTRY, "_broken", broken)
        for name in files:
            patch.delitem(sys.modules, f"trainers.{name}", raising=False)
        importlib.invalidate_caches()
        import_files("trainers", [str(target)], TRAINER_REGISTRY)
        try:
            yield
        finally:
            for name in files:
                sys.modules.pop(f"trainers.{name}", None)
