"""Shapes as radius tables: every shape is star-convex, angle -> outer (and inner) radius."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from .factors import SHAPES

ANGLES = 720  # table entries for a full turn; angle 0 points right, a quarter turn points down
_DIGITS = 6  # entries are rounded: the last bits of cos and sin differ between machines

Point = tuple[float, float]


def _polygon(points: list[Point]) -> Callable[[float], float]:
    """Radius function of a star-shaped polygon around the origin (x right, y down)."""

    def radius(angle: float) -> float:
        dx, dy = math.cos(angle), math.sin(angle)
        best = 0.0
        for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1]):
            ex, ey = x2 - x1, y2 - y1
            cross = dx * ey - dy * ex
            if abs(cross) < 1e-12:
                continue
            along = (x1 * ey - y1 * ex) / cross  # distance on the ray
            place = (x1 * dy - y1 * dx) / cross  # position on the edge
            if along > 0 and -1e-9 <= place <= 1 + 1e-9:
                best = max(best, along)
        return best

    return radius


def _regular(corners: int, *, inner: float = 0.0) -> Callable[[float], float]:
    """Regular polygon pointing up; with ``inner`` a star with that inner radius."""
    steps = corners * 2 if inner else corners
    points = []
    for k in range(steps):
        angle = -math.pi / 2 + 2 * math.pi * k / steps
        r = inner if inner and k % 2 else 1.0
        points.append((r * math.cos(angle), r * math.sin(angle)))
    return _polygon(points)


def _circles(*circles: tuple[float, float, float]) -> Callable[[float], float]:
    """Outline of a union of discs (x, y, r) that all reach a common core around the origin."""

    def radius(angle: float) -> float:
        dx, dy = math.cos(angle), math.sin(angle)
        best = 0.0
        for x, y, r in circles:
            middle = x * dx + y * dy
            gap = r * r - (x * x + y * y - middle * middle)
            if gap >= 0:
                best = max(best, middle + math.sqrt(gap))
        return best

    return radius


def _heart(angle: float) -> float:
    lobes = _circles((-0.42, -0.30, 0.56), (0.42, -0.30, 0.56))(angle)
    tip = _polygon([(-0.93, -0.10), (0.0, -0.45), (0.93, -0.10), (0.0, 1.05)])(angle)
    return max(lobes, tip)


def _drop(angle: float) -> float:
    body = _circles((0.0, 0.30, 0.66))(angle)
    tip = _polygon([(-0.60, 0.05), (0.0, -1.15), (0.60, 0.05), (0.0, 0.4)])(angle)
    return max(body, tip)


def _leaf(angle: float) -> float:
    """Intersection of two discs, pointed at both ends, leaning to the right."""
    turned = angle + math.pi / 4
    c, s = abs(math.cos(turned)), abs(math.sin(turned))
    offset, r = 0.62, 1.12
    return -offset * s + math.sqrt(r * r - offset * offset * c * c)


def _oval(angle: float) -> float:
    return 1.0 / math.sqrt((math.cos(angle) / 1.05) ** 2 + (math.sin(angle) / 0.60) ** 2)


def _gear(angle: float) -> float:
    return 1.0 if math.cos(8 * angle) > 0 else 0.72


def _flower(angle: float) -> float:
    return 0.74 + 0.30 * math.cos(5 * (angle + math.pi / 2))


_OUTER: dict[str, Callable[[float], float]] = {
    "circle": lambda angle: 0.92,
    "square": _polygon([(-0.80, -0.80), (0.80, -0.80), (0.80, 0.80), (-0.80, 0.80)]),
    "triangle": _polygon([(0.0, -1.05), (1.0, 0.72), (-1.0, 0.72)]),
    "pentagon": _regular(5),
    "gem": _polygon(
        [(-1.0, 0.0), (-0.5, -0.87), (0.5, -0.87), (1.0, 0.0), (0.5, 0.87), (-0.5, 0.87)]
    ),
    "star": _regular(5, inner=0.42),
    "cross": _polygon(
        [
            (-0.32, -1.0), (0.32, -1.0), (0.32, -0.32), (1.0, -0.32), (1.0, 0.32), (0.32, 0.32),
            (0.32, 1.0), (-0.32, 1.0), (-0.32, 0.32), (-1.0, 0.32), (-1.0, -0.32), (-0.32, -0.32),
        ]
    ),
    "heart": _heart,
    "flower": _flower,
    "gear": _gear,
    "ring": lambda angle: 1.0,
    "moon": lambda angle: 1.0,
    "diamond": _polygon([(0.0, -1.1), (0.66, 0.0), (0.0, 1.1), (-0.66, 0.0)]),
    "oval": _oval,
    "drop": _drop,
    "leaf": _leaf,
    "arrow": _polygon(
        [
            (0.0, -1.05), (0.86, -0.10), (0.30, -0.10), (0.30, 1.0), (-0.30, 1.0), (-0.30, -0.10),
            (-0.86, -0.10),
        ]
    ),
    "house": _polygon(
        [
            (0.0, -1.1), (1.0, -0.30), (0.74, -0.30), (0.74, 0.85), (-0.74, 0.85), (-0.74, -0.30),
            (-1.0, -0.30),
        ]
    ),
    "cloud": _circles(
        (-0.52, 0.18, 0.52), (0.52, 0.18, 0.52), (0.0, -0.18, 0.58), (0.0, 0.22, 0.46)
    ),
    "shield": _polygon(
        [
            (-0.84, -0.85), (0.0, -0.68), (0.84, -0.85), (0.80, 0.10), (0.52, 0.66), (0.0, 1.08),
            (-0.52, 0.66), (-0.80, 0.10),
        ]
    ),
}  # fmt: skip
_INNER: dict[str, Callable[[float], float]] = {
    "ring": lambda angle: 0.55,
    "moon": _circles((0.46, -0.14, 0.78)),
}


@lru_cache(maxsize=1)
def radius_tables() -> tuple[np.ndarray, np.ndarray]:
    """(outer, inner): two float32 tables (len(SHAPES), ANGLES); inner is -1 for solid shapes."""
    angles = [2 * math.pi * (k + 0.5) / ANGLES for k in range(ANGLES)]
    outer = [[round(_OUTER[name](a), _DIGITS) for a in angles] for name in SHAPES]
    inner = [
        [round(_INNER[name](a), _DIGITS) if name in _INNER else -1.0 for a in angles]
        for name in SHAPES
    ]
    return np.array(outer, dtype=np.float32), np.array(inner, dtype=np.float32)
