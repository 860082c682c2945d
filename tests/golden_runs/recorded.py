"""Recorded numbers: the files, and what differs from them."""

from __future__ import annotations

import json
import math
from pathlib import Path

from golden_checks.common import RESIZE_LEVELS

FOLDER = Path(__file__).parent
DIGITS = 7  # significant ones that are written
# |a - b| <= atol + rtol |b|. Other numbers of threads and instruction sets stay below 2.5e-5, older
# Pillow, which rounds resizes otherwise, below 7e-3 of a number.
RTOL, ATOL = (2e-2, 2e-2) if RESIZE_LEVELS else (1e-4, 2e-5)
EXACT = {"lr": (1e-6, 0.0)}  # by the last part of a number's place: rtol, atol


def path_of(name: str) -> Path:
    """The file of a case."""
    return FOLDER / f"{name}.json"


def read(name: str) -> dict:
    """The recorded numbers of a case; {} where there are none yet."""
    path = path_of(name)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write(name: str, numbers: dict) -> None:
    """Record the numbers of a case."""
    path_of(name).write_text(_text(numbers) + "\n", encoding="utf-8")


def _text(value: object, indent: str = "") -> str:
    """JSON with the innermost lists and objects on one line."""
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list)) or not any(isinstance(v, (dict, list)) for v in inner):
        return json.dumps(_rounded(value), ensure_ascii=False)
    deeper = f"{indent} "
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_text(item, deeper)}" for key, item in value.items()]
    else:
        parts = [_text(item, deeper) for item in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return f"{first}\n{deeper}" + f",\n{deeper}".join(parts) + f"\n{indent}{last}"


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def differences(actual: object, expected: object, place: str = "") -> list[str]:
    """One line for everything that is missing, new, or beyond its tolerance."""
    if isinstance(actual, dict) and isinstance(expected, dict):
        found = [f"{place}{key} is missing" for key in expected if key not in actual]
        found += [f"{place}{key} was not recorded" for key in actual if key not in expected]
        for key in (key for key in expected if key in actual):
            found += differences(actual[key], expected[key], f"{place}{key} / ")
        return found
    if isinstance(actual, list) and isinstance(expected, list):
        if len(actual) != len(expected):
            return [f"{place}{len(actual)} entries, recorded were {len(expected)}"]
        pairs = enumerate(zip(actual, expected))
        return [line for i, pair in pairs for line in differences(*pair, f"{place}{i} / ")]
    name = place.removesuffix(" / ")
    if _equal(actual, expected, name.rsplit(" / ", 1)[-1]):
        return []
    return [f"{name} is {_shown(actual)}, recorded was {_shown(expected)}"]


def _equal(actual: object, expected: object, name: str) -> bool:
    if not all(isinstance(value, (int, float)) for value in (actual, expected)):
        return actual == expected
    rtol, atol = EXACT.get(name, (RTOL, ATOL))
    gap = abs(actual - expected)
    return gap <= atol + rtol * abs(expected) or (math.isnan(actual) and math.isnan(expected))


def _shown(value: object) -> str:
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else repr(value)
