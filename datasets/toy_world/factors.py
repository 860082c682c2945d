"""The factors of the toy world and how scenes are drawn from them.

All randomness comes from a frozen ``numpy.random.RandomState`` and uses uniform draws and integers
only; no library function whose last bit differs between machines takes part, so that a seed means
the same scenes everywhere.
"""

import math
from dataclasses import dataclass, fields

import numpy as np

SHAPES = (
    "circle", "square", "triangle", "pentagon", "gem", "star", "cross", "heart", "flower",
    "gear", "ring", "moon", "diamond", "oval", "drop", "leaf", "arrow", "house", "cloud", "shield",
)  # fmt: skip
COLORS = (
    "red", "orange", "yellow", "green", "turquoise", "blue", "purple", "pink", "brown", "gray",
    "black", "white",
)  # fmt: skip
TEXTURES = (
    "plain", "striped", "dotted", "checked", "grid", "chevron", "wavy", "marble", "brick",
    "scaled",
)  # fmt: skip
BACKGROUNDS = (
    "wall", "sky", "meadow", "desert", "water", "snow", "forest", "street", "carpet", "night",
)  # fmt: skip
SIZES = ("small", "medium", "large")
POSITIONS = ("left", "right", "top", "bottom", "center")
STYLES = ("photo", "painting", "cartoon", "sketch")
FACTORS = {
    "shape": SHAPES,
    "color": COLORS,
    "texture": TEXTURES,
    "background": BACKGROUNDS,
    "style": STYLES,
    "size": SIZES,
    "position": POSITIONS,
}

COLOR_RGB = np.array(
    [
        (0.86, 0.12, 0.12), (0.97, 0.52, 0.08), (0.96, 0.88, 0.14), (0.14, 0.62, 0.18),
        (0.12, 0.80, 0.82), (0.12, 0.25, 0.86), (0.52, 0.14, 0.66), (0.97, 0.52, 0.74),
        (0.47, 0.28, 0.12), (0.52, 0.52, 0.52), (0.07, 0.07, 0.08), (0.96, 0.96, 0.96),
    ]
)  # fmt: skip
BACKGROUND_RGB = np.array(
    [
        ((0.80, 0.76, 0.68), (0.70, 0.66, 0.60)), ((0.46, 0.68, 0.92), (0.92, 0.95, 0.98)),
        ((0.30, 0.58, 0.20), (0.58, 0.76, 0.28)), ((0.88, 0.74, 0.46), (0.72, 0.54, 0.30)),
        ((0.10, 0.36, 0.62), (0.34, 0.64, 0.80)), ((0.95, 0.96, 0.99), (0.76, 0.82, 0.92)),
        ((0.08, 0.24, 0.10), (0.32, 0.24, 0.12)), ((0.34, 0.34, 0.36), (0.62, 0.60, 0.58)),
        ((0.56, 0.12, 0.18), (0.84, 0.66, 0.34)), ((0.03, 0.04, 0.13), (0.78, 0.78, 0.62)),
    ]
)  # fmt: skip
RADII = np.array([0.40, 0.54, 0.70])  # of the half image
OFFSETS = np.array([(-0.55, 0.0), (0.55, 0.0), (0.0, -0.55), (0.0, 0.55), (0.0, 0.0)])
MAX_ROTATION = 0.40  # radians, an unnamed nuisance
STYLE_MIX = (0.70, 0.12, 0.12, 0.06)
NOISE_PERIOD = 256  # pixels, of the noise bank from which a window is cut


@dataclass
class Scenes:
    """N scenes as arrays of N rows; everything that the renderer needs and nothing random.

    Lengths are in half images (the image spans -1..1), colours in 0..1.
    """

    shape: np.ndarray
    color: np.ndarray
    texture: np.ndarray
    background: np.ndarray
    style: np.ndarray
    size: np.ndarray
    position: np.ndarray
    rgb: np.ndarray  # (N, 3) of the object
    background_rgb: np.ndarray  # (N, 2, 3), mixed by the background's tile
    radius: np.ndarray
    center: np.ndarray  # (N, 2) x, y
    rotation: np.ndarray  # (N, 2) cosine, sine
    frequency: np.ndarray  # texture periods per radius
    texture_phase: np.ndarray  # (N, 2) texels
    background_phase: np.ndarray  # (N, 2) texels
    distractor: np.ndarray  # (N,) bool
    distractor_shape: np.ndarray
    distractor_rgb: np.ndarray
    distractor_radius: np.ndarray
    distractor_center: np.ndarray
    light: np.ndarray  # (N, 2) shading per radius
    brightness: np.ndarray
    noise: np.ndarray  # standard deviation
    noise_phase: np.ndarray  # (N, 2)

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: slice | np.ndarray) -> "Scenes":
        return Scenes(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def concatenate(parts: list[Scenes]) -> Scenes:
    """Join several draws into one."""
    return Scenes(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Scenes)}
    )


def bell(rng: np.random.RandomState, *shape: int) -> np.ndarray:
    """Bell-shaped draws of mean 0 and deviation 1: a sum of four uniforms, exact everywhere."""
    total = rng.random_sample(shape)
    for _ in range(3):
        total = total + rng.random_sample(shape)
    return (total - 2.0) * math.sqrt(3.0)


def uniform(rng: np.random.RandomState, low: float, high: float, *shape: int) -> np.ndarray:
    return low + (high - low) * rng.random_sample(shape)


def choice(rng: np.random.RandomState, weights: tuple[float, ...], count: int) -> np.ndarray:
    """Indices with the given probabilities."""
    edges, total = [], 0.0
    for weight in weights[:-1]:
        total += weight
        edges.append(total)
    return np.searchsorted(np.array(edges), rng.random_sample(count), side="right")


def directions(angles: np.ndarray) -> np.ndarray:
    """(N,) radians -> (N, 2) cosine and sine, rounded so that every libm agrees."""
    pairs = [(round(math.cos(a), 7), round(math.sin(a), 7)) for a in angles.tolist()]
    return np.array(pairs, dtype=np.float64).reshape(-1, 2)


def sample_scenes(
    rng: np.random.RandomState,
    count: int,
    *,
    fixed: dict[str, np.ndarray] | None = None,
    plain_rate: float = 0.30,
    style_mix: tuple[float, ...] = STYLE_MIX,
    distractor_rate: float = 0.35,
    noise: float = 0.045,
) -> Scenes:
    """Draw scenes; factors are independent and uniform unless said.

    Args:
        rng: consumed in a fixed order that does not depend on ``fixed``.
        count: N.
        fixed: factor name -> (N,) indices that replace the draw (-1 keeps the drawn one); ``rgb``
            -> (N, 3) replaces the named colour before its jitter.
        plain_rate: share of images whose texture is forced to plain.
        style_mix: probabilities of ``STYLES``.
        distractor_rate: probability of a second, small object.
        noise: deviation of the pixel noise of photos.
    """
    fixed = dict(fixed or {})
    base_rgb = fixed.pop("rgb", None)
    drawn = {
        name: choice(rng, style_mix, count)
        if name == "style"
        else rng.randint(len(words), size=count)
        for name, words in FACTORS.items()
    }
    drawn["texture"] = np.where(rng.random_sample(count) < plain_rate, 0, drawn["texture"])
    for name, values in fixed.items():
        values = np.broadcast_to(np.asarray(values), (count,))
        drawn[name] = np.where(values >= 0, values, drawn[name])
    radius = RADII[drawn["size"]] * uniform(rng, 0.88, 1.12, count)
    limit = np.maximum(1.0 - 0.92 * radius, 0.0)[:, None]
    center = OFFSETS[drawn["position"]] + uniform(rng, -0.18, 0.18, count, 2)
    named = COLOR_RGB[drawn["color"]] if base_rgb is None else base_rgb
    rim = directions(uniform(rng, 0.0, 2.0 * math.pi, count))
    center = np.clip(center, -limit, limit)
    return Scenes(
        **drawn,
        rgb=np.clip(named + 0.05 * bell(rng, count, 3), 0.0, 1.0),
        background_rgb=np.clip(
            BACKGROUND_RGB[drawn["background"]] + 0.05 * bell(rng, count, 2, 3), 0.0, 1.0
        ),
        radius=radius,
        center=center,
        rotation=directions(uniform(rng, -MAX_ROTATION, MAX_ROTATION, count)),
        frequency=uniform(rng, 1.5, 2.1, count),
        texture_phase=rng.randint(64, size=(count, 2)),
        background_phase=rng.randint(64, size=(count, 2)),
        distractor=rng.random_sample(count) < distractor_rate,
        distractor_shape=rng.randint(len(SHAPES), size=count),
        distractor_rgb=COLOR_RGB[rng.randint(len(COLORS), size=count)],
        distractor_radius=uniform(rng, 0.16, 0.24, count),
        distractor_center=np.clip(center + (radius[:, None] + 0.12) * rim, -0.82, 0.82),
        light=directions(uniform(rng, 0.0, 2.0 * math.pi, count))
        * uniform(rng, 0.0, 0.28, count, 1),
        brightness=uniform(rng, 0.75, 1.15, count),
        noise=np.full(count, noise),
        noise_phase=rng.randint(NOISE_PERIOD, size=(count, 2)),
    )
