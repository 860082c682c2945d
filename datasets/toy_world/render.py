"""Scenes -> 64 x 64 RGB images, vectorised over a batch; colours are planes, (3, N, 64, 64).

Only additions, products, quotients, square roots, comparisons and table look-ups are used: IEEE
arithmetic gives the same float32 results on every machine, and the final rounding to bytes hides
nothing.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .factors import STYLES, Scenes
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
BATCH = 16  # images per batch; small enough for the cache
_AXIS = ((np.arange(IMAGE_SIZE) + 0.5) * (2.0 / IMAGE_SIZE) - 1.0).astype(np.float32)
_PIXELS = np.arange(IMAGE_SIZE)
_PAPER = np.float32(0.95)
_OCHRE = np.array((0.80, 0.62, 0.36), dtype=np.float32)[:, None, None, None]


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


def _colour(rgb: np.ndarray) -> np.ndarray:
    """(N, 3) -> (3, N, 1, 1) float32."""
    return rgb.T.astype(np.float32)[:, :, None, None]


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


def _windows(
    bank: np.ndarray, phase: np.ndarray, kind: np.ndarray | slice = slice(None)
) -> np.ndarray:
    """(N, 64, 64) windows of periodic tiles (K, P, P), from the phases (N, 2) x, y on.

    Without a kind per image, of every tile: (K, N, 64, 64).
    """
    x, y = (phase % bank.shape[-1]).T
    sides = [(0, 0), (0, IMAGE_SIZE), (0, IMAGE_SIZE)]
    repeated = np.pad(bank, sides, mode="wrap")
    return sliding_window_view(repeated, (IMAGE_SIZE, IMAGE_SIZE), axis=(1, 2))[kind, y, x]


def _texture(scenes: Scenes, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(N, 64, 64) share of the second tone."""
    scale = _column(scenes.frequency * PERIOD)
    far = np.float32(16 * TILE)  # keeps truncation on the positive side
    columns = (u * scale + far).astype(np.int32) + scenes.texture_phase[:, 0, None, None]
    rows = (v * scale + far).astype(np.int32) + scenes.texture_phase[:, 1, None, None]
    flat = (rows & (TILE - 1)) * TILE + (columns & (TILE - 1))
    return texture_bank().ravel()[(scenes.texture * TILE * TILE)[:, None, None] + flat]


def _background(scenes: Scenes, *, flat: bool) -> np.ndarray:
    """(3, N, 64, 64) colours."""
    first = _colour(scenes.background_rgb[:, 0])
    step = _colour(scenes.background_rgb[:, 1]) - first
    if flat:
        return np.tile(first + np.float32(0.3) * step, (IMAGE_SIZE, IMAGE_SIZE))
    return first + step * _windows(background_bank(), scenes.background_phase, scenes.background)


def _second_tone(rgb: np.ndarray) -> np.ndarray:
    """Darker for bright colours, lighter for dark ones."""
    bright = (rgb[:, 0] + rgb[:, 1] + rgb[:, 2]) > 1.05
    return np.where(bright[:, None], rgb * 0.35, rgb + (1.0 - rgb) * 0.62)


def _distract(image: np.ndarray, scenes: Scenes) -> None:
    """Paint a second, small object into the images that have one."""
    rows = np.flatnonzero(scenes.distractor)
    few, part = scenes[rows], image[:, rows]
    u, v = _local(few, few.distractor_center, few.distractor_radius)
    cover, _ = _coverage(few.distractor_shape, u, v, few.distractor_radius)
    image[:, rows] = part + cover * (_colour(few.distractor_rgb) - part)


def _compose(scenes: Scenes, *, flat: bool = False) -> tuple[np.ndarray, ...]:
    """Unstyled image (3, N, 64, 64), object coverage, outline depth and texture (N, 64, 64)."""
    image = _background(scenes, flat=flat)
    _distract(image, scenes)
    u, v = _local(scenes, scenes.center, scenes.radius)
    cover, depth = _coverage(scenes.shape, u, v, scenes.radius)
    texture = _texture(scenes, u, v)
    rgb, tone = _colour(scenes.rgb), _colour(_second_tone(scenes.rgb))
    fill = rgb + (np.float32(0.8) * texture) * (tone - rgb)
    if not flat:
        light = u * _column(scenes.light[:, 0]) + v * _column(scenes.light[:, 1])
        fill = fill * (np.float32(1.0) + light)
    return image + cover * (fill - image), cover, depth, texture


def _photo(scenes: Scenes) -> np.ndarray:
    image = _compose(scenes)[0] * _column(scenes.brightness)
    noise = _windows(noise_bank(), scenes.noise_phase)
    return image + noise * _column(scenes.noise)


def _painting(scenes: Scenes) -> np.ndarray:
    image = _compose(scenes)[0]
    dy, dx = _windows(displacement_bank(), scenes.noise_phase)
    y = np.clip(_PIXELS[:, None] + dy, 0, IMAGE_SIZE - 1)
    x = np.clip(_PIXELS[None, :] + dx, 0, IMAGE_SIZE - 1)
    image = image[:, np.arange(len(scenes))[:, None, None], y, x]
    levels = np.floor(image * np.float32(4.0) + np.float32(0.5)) * np.float32(0.25)
    image = levels + np.float32(0.18) * (_OCHRE - levels)
    return image + np.float32(0.07) * _windows(stroke_bank()[None], scenes.noise_phase)


def _cartoon(scenes: Scenes) -> np.ndarray:
    image, _, depth, _ = _compose(scenes, flat=True)
    grey = (image[0] + image[1] + image[2]) * np.float32(1.0 / 3.0)
    image = np.clip(grey + np.float32(1.5) * (image - grey), 0.0, 1.0)
    image = np.floor(image * np.float32(2.0) + np.float32(0.5)) * np.float32(0.5)
    line = np.clip(np.float32(2.0) - np.abs(depth), 0.0, 1.0)
    return image * (np.float32(1.0) - line)


def _sketch(scenes: Scenes) -> np.ndarray:
    image, cover, depth, texture = _compose(scenes)
    hatch = _windows(hatch_bank()[None], scenes.noise_phase)[0]
    line = np.clip(np.float32(2.2) - np.abs(depth), 0.0, 1.0)
    ink = np.maximum(line, cover * np.maximum(np.float32(0.30) * hatch, np.float32(0.55) * texture))
    paper = _PAPER + np.float32(0.22) * (image - _PAPER)
    return paper * (np.float32(1.0) - np.float32(0.85) * ink)


_PAINTERS: tuple[Callable[[Scenes], np.ndarray], ...] = (_photo, _painting, _cartoon, _sketch)


def render(scenes: Scenes) -> np.ndarray:
    """(N,) scenes -> (N, 64, 64, 3) bytes."""
    images = np.empty((len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    for style in range(len(STYLES)):
        rows = np.flatnonzero(scenes.style == style)
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            image = np.clip(_PAINTERS[style](scenes[part]), 0.0, 1.0)
            pixels = (image * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)
            images[part] = np.moveaxis(pixels, 0, -1)
    return images
