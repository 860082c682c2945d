"""Periodic 64 x 64 tiles: textures, backgrounds, displacement and noise banks.

Tiles are made once from a frozen stream with elementary arithmetic only, so they are the same on
every machine.
"""

from functools import lru_cache

import numpy as np

from .factors import BACKGROUNDS, NOISE_PERIOD, TEXTURES

TILE = 64
PERIOD = 16  # texels per texture period
_SEED = 20260


def _triangle_wave(x: np.ndarray, period: int) -> np.ndarray:
    """0..1..0 over one period of integer positions."""
    half = period // 2
    return 1.0 - np.abs((x % period) - half) / half


def _smooth(rng: np.random.RandomState, cells: int) -> np.ndarray:
    """(64, 64) periodic value noise in 0..1 with ``cells`` lattice cells per side."""
    lattice = rng.random_sample((cells, cells))
    step = TILE // cells
    place = np.arange(TILE)
    low, part = place // step, (place % step) / step
    part = part * part * (3.0 - 2.0 * part)
    high = (low + 1) % cells
    rows = lattice[low] * (1.0 - part[:, None]) + lattice[high] * part[:, None]
    return rows[:, low] * (1.0 - part) + rows[:, high] * part


def _clouds(rng: np.random.RandomState) -> np.ndarray:
    noise = 0.55 * _smooth(rng, 4) + 0.30 * _smooth(rng, 8) + 0.15 * _smooth(rng, 16)
    return np.clip((noise - 0.28) * 2.2, 0.0, 1.0)


def _texture(name: str, rng: np.random.RandomState) -> np.ndarray:
    y, x = np.mgrid[0:TILE, 0:TILE]
    if name == "plain":
        tile: np.ndarray = np.zeros((TILE, TILE))
    elif name == "striped":
        tile = (x % PERIOD) < 8
    elif name == "dotted":
        tile = ((x % PERIOD) - 7.5) ** 2 + ((y % PERIOD) - 7.5) ** 2 < 27.0
    elif name == "checked":
        tile = ((x // 8) + (y // 8)) % 2
    elif name == "grid":
        tile = ((x % PERIOD) < 4) | ((y % PERIOD) < 4)
    elif name == "chevron":
        tile = (y + np.abs((x % PERIOD) - 8)) % PERIOD < 7
    elif name == "wavy":
        wave = _triangle_wave(x, 32)
        smooth = wave * wave * (3.0 - 2.0 * wave)
        tile = ((y + (14.0 * smooth).astype(np.int64)) % PERIOD) < 7
    elif name == "marble":
        tile = _smooth(rng, 32) > 0.60
    elif name == "brick":
        shifted = x + np.where((y // PERIOD) % 2 == 0, 0, PERIOD)
        tile = ((y % PERIOD) < 4) | ((shifted % 32) < 4)
    else:  # scaled: overlapping half discs, each row shifted by half a scale
        tile = np.zeros((TILE, TILE), dtype=bool)
        row = y // 8
        shifted = (x + np.where(row % 2 == 0, 0, 8)) % PERIOD
        distance = (shifted - 7.5) ** 2 + ((y % 8) * 1.0) ** 2
        tile = (distance > 36.0) & (distance < 84.0)
    return tile.astype(np.float64)


def _background(name: str, rng: np.random.RandomState) -> np.ndarray:
    y, x = np.mgrid[0:TILE, 0:TILE]
    fine = _smooth(rng, 32)
    if name == "wall":
        tile = 0.35 * _smooth(rng, 8) + 0.25 * fine
    elif name == "sky":
        tile = _clouds(rng)
    elif name == "meadow":
        blades = rng.random_sample((TILE // 4, TILE))[y // 4, x]
        tile = 0.65 * blades + 0.35 * _smooth(rng, 8)
    elif name == "desert":
        dunes = (y + 10.0 * _smooth(rng, 4)) % 16.0 / 16.0
        tile = 0.8 * dunes * dunes + 0.2 * fine
    elif name == "water":
        ripple = _triangle_wave((y + (8.0 * _smooth(rng, 4)).astype(np.int64)), 8)
        tile = 0.7 * ripple + 0.3 * _smooth(rng, 16)
    elif name == "snow":
        tile = 0.5 * _clouds(rng) + 0.25 * fine
    elif name == "forest":
        trunks = (rng.random_sample(TILE // 4) > 0.55)[x // 4]
        tile = 0.75 * trunks + 0.25 * fine
    elif name == "street":
        slabs = ((y % 32) < 2) | (((x + 32 * (y // 32)) % 64) < 2)
        tile = 0.6 * fine * fine + 0.7 * slabs
    elif name == "carpet":
        diamond = (np.abs((x % 32) - 16) + np.abs((y % 32) - 16)) // 5
        tile = (diamond % 2) * 0.8 + 0.2 * fine
    else:  # night: few stars
        stars = rng.random_sample((TILE // 2, TILE // 2))[y // 2, x // 2]
        tile = (stars > 0.975) * 1.0 + 0.15 * _smooth(rng, 4)
    return np.clip(tile, 0.0, 1.0)


@lru_cache(maxsize=1)
def texture_bank() -> np.ndarray:
    """(len(TEXTURES), 64, 64) float32, share of the second tone."""
    rng = np.random.RandomState(_SEED)
    return np.stack([_texture(name, rng) for name in TEXTURES]).astype(np.float32)


@lru_cache(maxsize=1)
def background_bank() -> np.ndarray:
    """(len(BACKGROUNDS), 64, 64) float32, share of the second colour."""
    rng = np.random.RandomState(_SEED + 1)
    return np.stack([_background(name, rng) for name in BACKGROUNDS]).astype(np.float32)


@lru_cache(maxsize=1)
def displacement_bank() -> np.ndarray:
    """(2, 64, 64) int64 pixel shifts of a brush, -3..3."""
    rng = np.random.RandomState(_SEED + 2)
    tiles = [_smooth(rng, 8) for _ in range(2)]
    return np.stack([np.floor(np.clip((t - 0.5) * 8.0, -3.0, 3.0) + 0.5) for t in tiles]).astype(
        np.int64
    )


@lru_cache(maxsize=1)
def stroke_bank() -> np.ndarray:
    """(64, 64) float32 in -1..1: short diagonal brush strokes."""
    rng = np.random.RandomState(_SEED + 3)
    y, x = np.mgrid[0:TILE, 0:TILE]
    strokes = rng.random_sample((8, TILE))[(x // 8 + y // 8) % 8, (x + y) % TILE]
    return (2.0 * strokes - 1.0).astype(np.float32)


@lru_cache(maxsize=1)
def hatch_bank() -> np.ndarray:
    """(64, 64) float32 in 0..1: pencil hatching."""
    y, x = np.mgrid[0:TILE, 0:TILE]
    return ((x + y) % 8 < 3).astype(np.float32)


@lru_cache(maxsize=1)
def noise_bank() -> np.ndarray:
    """(3, 256, 256) float32 of mean 0 and deviation 1 from integer draws."""
    rng = np.random.RandomState(_SEED + 4)
    total = rng.randint(256, size=(4, NOISE_PERIOD, NOISE_PERIOD, 3)).sum(axis=0)
    return ((total - 510.0) / 147.8).astype(np.float32).transpose(2, 0, 1)
