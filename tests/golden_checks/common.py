"""A golden case: reading it, building its tiny backbone, comparing numbers with it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from clip.model import CLIP, build_clip
from golden_checks import tiny_clip

# Pillow before 13 rounds some resizes otherwise: up to two grey levels from the measured pixels
RESIZE_LEVELS = 0 if int(PIL.__version__.split(".")[0]) >= 13 else 2
SMALLEST_STD = 0.22  # of the statistics that pixels are normalised with


@lru_cache(maxsize=2)
def _tiny_weights(name: str, seed: int) -> dict[str, Tensor]:
    return tiny_clip.torch_state_dict(name, seed)


class Arrays(dict):
    """Name -> array; ``read`` holds the names asked for one by one: a loop over all reads none."""

    def __init__(self, arrays: dict[str, np.ndarray] | None = None) -> None:
        super().__init__(arrays or {})
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.add(name)
        return super().__getitem__(name)


@dataclass(frozen=True)
class Case:
    """One folder with case.json and, if it has arrays, arrays.npz.

    Attributes:
        path: the folder.
    """

    path: Path

    @cached_property
    def spec(self) -> dict:
        """case.json."""
        return json.loads((self.path / "case.json").read_text(encoding="utf-8"))

    @property
    def config(self) -> dict:
        """The `config` of case.json."""
        return self.spec.get("config") or {}

    @property
    def templates(self) -> list[str]:
        """The sentence patterns, however many the case holds."""
        given = self.config.get("templates") or self.spec["template"]
        return [given] if isinstance(given, str) else given

    @cached_property
    def arrays(self) -> Arrays:
        """Name -> array, of arrays.npz."""
        file = self.path / "arrays.npz"
        if not file.is_file():
            return Arrays()
        with np.load(file, allow_pickle=False) as stored:
            return Arrays({name: stored[name] for name in stored.files})

    def unread(self) -> list[str]:
        """Arrays that nothing has read so far, but for those that case.json calls inputs."""
        patterns = [re.sub("<[^>]*>", "*", name) for name in self.spec.get("inputs") or {}]
        return sorted(
            name
            for name in set(self.arrays) - self.arrays.read
            if not any(fnmatchcase(name, pattern) for pattern in patterns)
        )

    def tensor(self, name: str) -> Tensor:
        """A stored array as a tensor of the same dtype; a copy."""
        return torch.tensor(self.arrays[name])

    def load_clip(self) -> CLIP:
        """The tiny backbone of the case: our CLIP in float32 and eval mode, a new one per call."""
        backbone = self.spec["backbone"]
        model = build_clip(_tiny_weights(backbone["name"], backbone["seed"]))
        model.backbone_name = backbone["name"]
        return model

    def tolerance(self, name: str) -> dict[str, float]:
        """rtol and atol of an array: those of the case, overridden by the entry of `tolerances`
        whose key is the longest beginning of `name` (which may allow outliers, too)."""
        entries = self.spec.get("tolerances") or {}
        keys = [key for key in entries if name.startswith(key)]
        override = entries[max(keys, key=len)] if keys else {}
        return {"rtol": self.spec["rtol"], "atol": self.spec["atol"], **override}

    def compare(self, name: str, actual, expected=None, *, rtol=None, atol=None) -> None:
        """Assert |actual - expected| <= atol + rtol * |expected|; integers and bools exactly.

        An array that the case neither holds nor lists under `expected` asks for no comparison.

        Args:
            name: array of the case; finds the tolerance, too.
            actual: tensor, array or number.
            expected: instead of the stored array (a field of case.json, say).
            rtol: instead of the case's.
            atol: instead of the case's.
        """
        if expected is None:
            if name not in self.arrays and name not in self.spec.get("expected", (name,)):
                return
            expected = self.arrays[name]
        expected = np.asarray(expected)
        actual = _numpy(actual)
        assert actual.shape == expected.shape, (
            f"{name}: shape {actual.shape}, expected {expected.shape}"
        )
        if expected.dtype.kind not in "fc":
            wrong = np.argwhere(actual != expected)
            if len(wrong):
                where = _first(wrong, actual, expected)
                raise AssertionError(f"{name}: {len(wrong)} of {expected.size} differ: {where}")
            return
        limits = self.tolerance(name)
        rtol = limits["rtol"] if rtol is None else rtol
        atol = limits["atol"] if atol is None else atol
        actual, expected = actual.astype(np.float64), expected.astype(np.float64)
        is_far = ~np.isclose(actual, expected, rtol=rtol, atol=atol, equal_nan=True)
        allowed = int(limits.get("outlier_fraction", 0) * expected.size)
        if is_far.sum() <= allowed:
            outlier_atol = limits.get("outlier_atol", atol)
            is_far &= ~np.isclose(actual, expected, rtol=rtol, atol=outlier_atol)
        if is_far.any():
            gap = np.nanmax(np.abs(actual - expected))
            raise AssertionError(
                f"{name}: {is_far.sum()} of {expected.size} beyond rtol {rtol}, atol {atol} "
                f"(outliers allowed: {allowed}); largest difference {gap:.3g}; "
                + _first(np.argwhere(is_far), actual, expected)
            )

    def compare_pixels(self, name: str, actual) -> None:
        """`compare` for normalised pixels after a resize, as exact as the installed Pillow is."""
        old_pillow = RESIZE_LEVELS / 255 / SMALLEST_STD
        self.compare(name, actual, atol=max(self.tolerance(name)["atol"], old_pillow))


def _numpy(value) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _first(wrong: np.ndarray, actual: np.ndarray, expected: np.ndarray) -> str:
    index = tuple(int(i) for i in wrong[0])
    return f"at {index} got {actual[index]}, expected {expected[index]}"
