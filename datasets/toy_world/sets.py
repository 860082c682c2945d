"""Definitions of the toy datasets: classes, concept shift, splits, seeds.

Real datasets differ from what the words in their class names mean to a backbone; without such a
gap zero-shot classification is already the best rule and no few-shot method can gain. The main set
therefore shifts every class in a fixed way: its colour drifts (``drift``), it often has its own
background (``context``) and its own texture (``material``). Base and new classes have different
shapes and opposite shifts, so that what is learned on base classes can hurt on new ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .factors import (
    BACKGROUNDS,
    COLOR_RGB,
    COLORS,
    OFFSETS,
    POSITIONS,
    SHAPES,
    STYLES,
    TEXTURES,
    Scenes,
    sample_scenes,
)

HALF = 20  # base classes of the object sets, and as many new ones
BASE_SHAPES = SHAPES[0::2]
NEW_SHAPES = SHAPES[1::2]
DOMAIN_SHAPES = (
    "arrow", "cross", "flower", "heart", "house", "leaf", "moon", "ring", "star", "triangle",
)  # fmt: skip


@dataclass(frozen=True)
class Shift:
    """How far images of a class lie from its name.

    drift: share of another colour mixed into the named one; context, material: probability of the
    class's own background and texture.
    """

    drift: float = 0.0
    context: float = 0.0
    material: float = 0.0


NO_SHIFT = Shift()
SHIFT = Shift(drift=0.47, context=0.5, material=0.3)
NO_CONTEXT = Shift(drift=SHIFT.drift)


@dataclass(frozen=True)
class ToyDefinition:
    """One set: class names, images per class of each split, and how a class is drawn.

    ``scenes(rng, labels)`` draws one scene per entry of ``labels``.
    """

    name: str
    seed: int
    classnames: tuple[str, ...]
    sizes: dict[str, int]
    scenes: Callable[[np.random.RandomState, np.ndarray], Scenes]


def _object_classes() -> list[tuple[int, int]]:
    """(shape, colour) of the 40 classes: two colours per shape, base classes first."""
    classes = []
    for half in (BASE_SHAPES, NEW_SHAPES):
        for k in range(HALF):
            shape = half[k % len(half)]
            classes.append((SHAPES.index(shape), (5 * k + 3 + 4 * (k // len(half))) % len(COLORS)))
    return classes


OBJECT_CLASSES = _object_classes()
OBJECT_NAMES = tuple(f"{COLORS[c]} {SHAPES[s]}" for s, c in OBJECT_CLASSES)


def _shifted(labels: np.ndarray, shift: Shift, rng: np.random.RandomState) -> dict[str, np.ndarray]:
    """Factors that the class decides, with its concept shift."""
    shape, color = np.array(OBJECT_CLASSES)[labels].T
    is_new = labels >= HALF
    drift_to = (color + np.where(is_new, 7, 5)) % len(COLORS)
    home = np.where(is_new, 9 - (3 * color) % 10, (3 * color) % 10)
    own = 1 + np.where(is_new, 8 - (4 * color + shape) % 9, (4 * color + shape) % 9)
    in_context = rng.random_sample(len(labels)) < shift.context
    has_material = rng.random_sample(len(labels)) < shift.material
    rgb = (1.0 - shift.drift) * COLOR_RGB[color] + shift.drift * COLOR_RGB[drift_to]
    return {
        "shape": shape,
        "color": color,
        "rgb": rgb,
        "background": np.where(in_context, home, -1),
        "texture": np.where(has_material, own, -1),
    }


def _objects(
    shift: Shift = SHIFT,
    *,
    style: int = 0,
    size: int = -1,
    distractor_rate: float = 0.35,
    noise: float = 0.045,
) -> Callable[[np.random.RandomState, np.ndarray], Scenes]:
    def scenes(rng: np.random.RandomState, labels: np.ndarray) -> Scenes:
        fixed = {"style": np.full(len(labels), style), "size": np.full(len(labels), size)}
        fixed |= _shifted(labels, shift, rng)
        return sample_scenes(
            rng, len(labels), fixed=fixed, distractor_rate=distractor_rate, noise=noise
        )

    return scenes


def _factor(name: str, values: np.ndarray | None = None):
    """Photos in which only one factor makes the class; ``values``: label -> index of its word."""

    def scenes(rng: np.random.RandomState, labels: np.ndarray) -> Scenes:
        index = labels if values is None else values[labels]
        fixed = {"style": np.zeros(len(labels), dtype=np.int64), name: index}
        return sample_scenes(rng, len(labels), fixed=fixed)

    return scenes


def textures(context: float, finer: float) -> Callable[[np.random.RandomState, np.ndarray], Scenes]:
    """Photos of textures finer than in pre-training; often a class has its own place and colour."""

    def scenes(rng: np.random.RandomState, labels: np.ndarray) -> Scenes:
        has_place = rng.random_sample(len(labels)) < context
        has_color = rng.random_sample(len(labels)) < context
        fixed = {
            "style": np.zeros(len(labels), dtype=np.int64),
            "texture": labels,
            "background": np.where(has_place, (3 * labels + 1) % len(BACKGROUNDS), -1),
            "color": np.where(has_color, (7 * labels + 2) % len(COLORS), -1),
        }
        drawn = sample_scenes(rng, len(labels), fixed=fixed)
        drawn.frequency *= finer
        return drawn

    return scenes


def layout(drift: float) -> Callable[[np.random.RandomState, np.ndarray], Scenes]:
    """Photos whose object lies between the named position and the next one."""

    def scenes(rng: np.random.RandomState, labels: np.ndarray) -> Scenes:
        fixed = {"style": np.zeros(len(labels), dtype=np.int64), "position": labels}
        drawn = sample_scenes(rng, len(labels), fixed=fixed)
        step = OFFSETS[(labels + 2) % len(POSITIONS)] - OFFSETS[labels]
        limit = np.maximum(1.0 - 0.92 * drawn.radius, 0.0)[:, None]
        drawn.center = np.clip(drawn.center + drift * step, -limit, limit)
        return drawn

    return scenes


def domain_scenes(rng: np.random.RandomState, labels: np.ndarray, style: int) -> Scenes:
    """Images of ``DOMAIN_SHAPES`` in one style."""
    shapes = np.array([SHAPES.index(name) for name in DOMAIN_SHAPES])[labels]
    fixed = {"style": np.full(len(labels), style), "shape": shapes}
    return sample_scenes(rng, len(labels), fixed=fixed)


def _split(test: int) -> dict[str, int]:
    return {"train": 32, "val": 8, "test": test}


def _names(pattern: str, words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(pattern.format(word) for word in words)


def _variant(name: str, seed: int, **options) -> ToyDefinition:
    return ToyDefinition(name, seed, OBJECT_NAMES, {"test": 32}, _objects(**options))


_SETS = (
    ToyDefinition("toy_objects", 101, OBJECT_NAMES, _split(60), _objects()),
    ToyDefinition("toy_objects_plain", 102, OBJECT_NAMES, _split(32), _objects(NO_SHIFT)),
    ToyDefinition("toy_shapes", 103, SHAPES, _split(64), _factor("shape")),
    ToyDefinition("toy_colors", 104, _names("{} object", COLORS), _split(104), _factor("color")),
    ToyDefinition(
        "toy_textures", 105, _names("{} object", TEXTURES), _split(128), textures(0.7, 1.4)
    ),
    ToyDefinition(
        "toy_scenes",
        106,
        _names("object in the {}", BACKGROUNDS),
        _split(128),
        _factor("background"),
    ),
    ToyDefinition(
        "toy_layout", 107, _names("object at the {}", POSITIONS), _split(256), layout(0.4)
    ),
    _variant("toy_objects_v2", 111, distractor_rate=1.0, noise=0.09),
    _variant("toy_objects_small", 112, size=0),
    _variant("toy_objects_painting", 113, style=STYLES.index("painting")),
    _variant("toy_objects_cartoon", 114, style=STYLES.index("cartoon")),
    _variant("toy_objects_sketch", 115, style=STYLES.index("sketch")),
    _variant("toy_objects_nocontext", 116, shift=NO_CONTEXT),
)  # fmt: skip
DEFINITIONS = {definition.name: definition for definition in _SETS}
DOMAINS = "toy_domains"
DOMAINS_SEED = 121
DOMAINS_PER_CLASS = 150  # of every class in every style
