"""Scenes -> 64 x 64 RGB images, vectorised over a batch.

Only additions, products, quotients, square roots, comparisons and table look-ups are used: IEEE
arithmetic gives the same float32 results on every machine, and the final rounding to bytes hides
nothing.
"""

from collections.abc import Callable

import numpy as np

from .factors import NOISE_PERIOD, STYLES, Scenes
from .shapes import ANGLES, radius_tables
from .tiles import (
    PERIOD,
    TILE,
    background_bank,
    displacement_bank,
    hatch_bank,
    noise_bank,
    stroke_bank,
    texture_bank,
)

IMAGE_SIZE = 64
BATCH = 32  # images per batch; small enough for the cache
_AXIS = ((np.arange(IMAGE_SIZE) + 0.5) * (2.0 / IMAGE_SIZE) - 1.0).astype(np.float32)
_PIXELS = np.arange(IMAGE_SIZE)
_PAPER = np.float32(0.95)
_OCHRE = np.array((0.80, 0.62, 0.36), dtype=np.float32)


def _angle_bins(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bin of the direction (u, v) in ``ANGLES`` bins, by a polynomial arc tangent."""
    au, av = np.abs(u), np.abs(v)
    low, high = np.minimum(au, av), np.maximum(np.maximum(au, av), np.float32(1e-6))
    t = low / high
    s = t * t
    turn = t * (
        0.99997726
        + s
        * (-0.33262347 + s * (0.19354346 + s * (-0.11643287 + s * (0.05265332 - s * 0.0117212))))
    )
    turn *= np.float32(1.0 / (2.0 * np.pi))  # of a full turn, 0..1/8
    turn = np.where(av > au, np.float32(0.25) - turn, turn)
    turn = np.where(u < 0, np.float32(0.5) - turn, turn)
    turn = np.where(v < 0, np.float32(1.0) - turn, turn)
    return np.minimum((turn * np.float32(ANGLES)).astype(np.int32), ANGLES - 1)


def _column(values: np.ndarray) -> np.ndarray:
    """(N,) -> (N, 1, 1) float32."""
    return values.astype(np.float32)[:, None, None]


def _local(scenes: Scenes, center: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Object coordinates (N, 64, 64) u, v in radii, turned with the object."""
    dx = _AXIS[None, None, :] - _column(center[:, 0])
    dy = _AXIS[None, :, None] - _column(center[:, 1])
    c, s, r = (_column(a) for a in (scenes.rotation[:, 0], scenes.rotation[:, 1], 1.0 / radius))
    return (c * dx + s * dy) * r, (c * dy - s * dx) * r


def _coverage(
    shape: np.ndarray, u: np.ndarray, v: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(coverage 0..1, signed distance to the outline in pixels, positive inside)."""
    outer, inner = radius_tables()
    index = (shape * ANGLES)[:, None, None].astype(np.int32) + _angle_bins(u, v)
    r = np.sqrt(u * u + v * v)
    pixels = _column(radius * (IMAGE_SIZE / 2))
    depth = (outer.ravel()[index] - r) * pixels
    depth = np.minimum(depth, (r - inner.ravel()[index]) * pixels)
    return np.clip(depth + np.float32(0.5), 0.0, 1.0), depth


def _look_up(
    bank: np.ndarray, kind: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """bank[kind, rows % 64, columns % 64] as one flat look-up."""
    flat = (rows & (TILE - 1)) * TILE + (columns & (TILE - 1))
    return bank.ravel()[(kind * TILE * TILE)[:, None, None] + flat]


def _texture(scenes: Scenes, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(N, 64, 64) share of the second tone."""
    scale = _column(scenes.frequency * PERIOD)
    far = np.float32(16 * TILE)  # keeps truncation on the positive side
    columns = (u * scale + far).astype(np.int32) + scenes.texture_phase[:, 0, None, None]
    rows = (v * scale + far).astype(np.int32) + scenes.texture_phase[:, 1, None, None]
    return _look_up(texture_bank(), scenes.texture, rows, columns)


def _background(scenes: Scenes, *, flat: bool) -> np.ndarray:
    """(N, 64, 64, 3) colours."""
    first = scenes.background_rgb[:, 0].astype(np.float32)[:, None, None]
    step = scenes.background_rgb[:, 1].astype(np.float32)[:, None, None] - first
    if flat:
        return np.broadcast_to(
            first + np.float32(0.3) * step, (len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3)
        )
    phase = scenes.background_phase
    rows, columns = (
        _PIXELS[:, None] + phase[:, 1, None, None],
        _PIXELS[None, :] + phase[:, 0, None, None],
    )
    mix = _look_up(background_bank(), scenes.background, rows, columns)
    return first + step * mix[..., None]


def _second_tone(rgb: np.ndarray) -> np.ndarray:
    """Darker for bright colours, lighter for dark ones."""
    bright = (rgb[:, 0] + rgb[:, 1] + rgb[:, 2]) > 1.05
    return np.where(bright[:, None], rgb * 0.35, rgb + (1.0 - rgb) * 0.62)


def _compose(scenes: Scenes, *, flat: bool = False) -> tuple[np.ndarray, ...]:
    """Unstyled image (N, 64, 64, 3), object coverage, outline depth and texture (N, 64, 64)."""
    image = _background(scenes, flat=flat)
    u, v = _local(scenes, scenes.distractor_center, scenes.distractor_radius)
    cover, _ = _coverage(scenes.distractor_shape, u, v, scenes.distractor_radius)
    cover = (cover * _column(scenes.distractor))[..., None]
    image = image + cover * (scenes.distractor_rgb.astype(np.float32)[:, None, None] - image)
    u, v = _local(scenes, scenes.center, scenes.radius)
    cover, depth = _coverage(scenes.shape, u, v, scenes.radius)
    texture = _texture(scenes, u, v)
    rgb = scenes.rgb.astype(np.float32)[:, None, None]
    tone = _second_tone(scenes.rgb).astype(np.float32)[:, None, None]
    fill = rgb + (np.float32(0.8) * texture[..., None]) * (tone - rgb)
    if not flat:
        light = u * _column(scenes.light[:, 0]) + v * _column(scenes.light[:, 1])
        fill = fill * (np.float32(1.0) + light)[..., None]
    return image + cover[..., None] * (fill - image), cover, depth, texture


def _photo(scenes: Scenes) -> np.ndarray:
    image = _compose(scenes)[0] * _column(scenes.brightness)[..., None]
    rows = (_PIXELS[:, None] + scenes.noise_phase[:, 1, None, None]) % NOISE_PERIOD
    columns = (_PIXELS[None, :] + scenes.noise_phase[:, 0, None, None]) % NOISE_PERIOD
    return image + noise_bank()[rows, columns] * _column(scenes.noise)[..., None]


def _painting(scenes: Scenes) -> np.ndarray:
    image = _compose(scenes)[0]
    phase = scenes.noise_phase
    rows = (_PIXELS[:, None] + phase[:, 1, None, None]) & (TILE - 1)
    columns = (_PIXELS[None, :] + phase[:, 0, None, None]) & (TILE - 1)
    shift = displacement_bank()[:, rows, columns]  # (2, N, 64, 64)
    y = np.clip(_PIXELS[:, None] + shift[0], 0, IMAGE_SIZE - 1)
    x = np.clip(_PIXELS[None, :] + shift[1], 0, IMAGE_SIZE - 1)
    image = image[np.arange(len(scenes))[:, None, None], y, x]
    levels = np.floor(image * np.float32(4.0) + np.float32(0.5)) * np.float32(0.25)
    image = levels + np.float32(0.18) * (_OCHRE - levels)
    return image + np.float32(0.07) * stroke_bank()[rows, columns][..., None]


def _cartoon(scenes: Scenes) -> np.ndarray:
    image, _, depth, _ = _compose(scenes, flat=True)
    grey = (image[..., :1] + image[..., 1:2] + image[..., 2:]) * np.float32(1.0 / 3.0)
    image = np.clip(grey + np.float32(1.5) * (image - grey), 0.0, 1.0)
    image = np.floor(image * np.float32(2.0) + np.float32(0.5)) * np.float32(0.5)
    line = np.clip(np.float32(2.0) - np.abs(depth), 0.0, 1.0)[..., None]
    return image * (np.float32(1.0) - line)


def _sketch(scenes: Scenes) -> np.ndarray:
    image, cover, depth, texture = _compose(scenes)
    phase = scenes.noise_phase
    rows = (_PIXELS[:, None] + phase[:, 1, None, None]) & (TILE - 1)
    columns = (_PIXELS[None, :] + phase[:, 0, None, None]) & (TILE - 1)
    hatch = hatch_bank()[rows, columns]
    line = np.clip(np.float32(2.2) - np.abs(depth), 0.0, 1.0)
    ink = np.maximum(line, cover * np.maximum(np.float32(0.30) * hatch, np.float32(0.55) * texture))
    paper = _PAPER + np.float32(0.22) * (image - _PAPER)
    return paper * (np.float32(1.0) - np.float32(0.85) * ink)[..., None]


_PAINTERS: tuple[Callable[[Scenes], np.ndarray], ...] = (_photo, _painting, _cartoon, _sketch)


def render(scenes: Scenes) -> np.ndarray:
    """(N,) scenes -> (N, 64, 64, 3) bytes."""
    images = np.empty((len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    for style in range(len(STYLES)):
        rows = np.flatnonzero(scenes.style == style)
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            image = np.clip(_PAINTERS[style](scenes[part]), 0.0, 1.0)
            images[part] = (image * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)
    return images
