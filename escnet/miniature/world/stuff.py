"""Procedural ground: twelve kinds of stuff, each a texture that differs from picture to picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

Texture = Callable[[np.random.Generator, int, float], np.ndarray]
"""(generator, side in pixels, pixels per unit) to (side, side, 3) float32 in 0..255."""


def noise(rng: np.random.Generator, side: int, cell_x: float, cell_y: float | None = None) -> np.ndarray:
    """Smooth random values in 0..1, (side, side), that change over about `cell_x` by `cell_y` pixels."""
    cell_y = cell_x if cell_y is None else cell_y
    columns, rows = (max(2, round(side / cell) + 1) for cell in (cell_x, cell_y))
    grid = rng.random((rows, columns), dtype=np.float32)
    if (rows, columns) == (side, side):
        return grid
    values = Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(values), 0.0, 1.0)


def mix(share: np.ndarray, low: tuple[float, ...], high: tuple[float, ...]) -> np.ndarray:
    """Colours between `low` and `high`: (side, side) shares in 0..1 to (side, side, 3)."""
    low, high = (np.asarray(colour, dtype=np.float32) for colour in (low, high))
    return low + share[..., None] * (high - low)


def _coordinates(side: int, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Column and row of each pixel in units: (1, side) and (side, 1)."""
    steps = np.arange(side, dtype=np.float32) / unit
    return steps[None], steps[:, None]


def grass(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    blades = noise(rng, side, 1.2 * unit, 7 * unit)
    patches = noise(rng, side, 30 * unit)
    return mix(0.7 * blades + 0.3 * patches, (20, 80, 15), (130, 200, 60))


def water(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    x, y = _coordinates(side, unit)
    bend = 14 * noise(rng, side, 22 * unit, 8 * unit)
    waves = 0.5 + 0.5 * np.sin((y + bend) * rng.uniform(0.7, 1.1) + 0.08 * x)
    return mix(waves**2, (15, 70, 140), (110, 185, 225))


def sand(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    grains, dunes = noise(rng, side, 1), noise(rng, side, 40 * unit, 14 * unit)
    return mix(0.35 * grains + 0.65 * dunes, (190, 150, 85), (245, 220, 155))


def sky(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    height = np.linspace(0, 1, side, dtype=np.float32)[:, None]
    clear = mix(np.broadcast_to(height, (side, side)), (80, 150, 230), (190, 220, 250))
    clouds = 0.65 * noise(rng, side, 40 * unit, 18 * unit) + 0.35 * noise(rng, side, 12 * unit, 7 * unit)
    cover = np.clip((clouds - 0.55) * 5, 0, 1)[..., None]
    return clear * (1 - cover) + 250 * cover


def brick_wall(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    x, y = _coordinates(side, unit)
    y = y + rng.uniform(0, 8)
    row = np.floor(y / 8)
    x = x + rng.uniform(0, 18) + 9 * (row % 2)
    mortar = (y % 8 < 1.5) | (x % 18 < 1.5)
    tone = rng.random((64, 64), dtype=np.float32)[row.astype(int) % 64, (x // 18).astype(int) % 64]
    bricks = mix(np.clip(tone + 0.4 * noise(rng, side, 1) - 0.2, 0, 1), (120, 45, 30), (190, 90, 65))
    return np.where(mortar[..., None], np.float32(200), bricks)


def snow(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    drifts, sparkle = noise(rng, side, 45 * unit, 20 * unit), noise(rng, side, 1)
    return mix(0.8 * drifts + 0.2 * sparkle, (205, 220, 240), (255, 255, 255))


def wooden_floor(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    x, y = _coordinates(side, unit)
    y = y + rng.uniform(0, 12)
    plank = np.floor(y / 12)
    tone = rng.random(64, dtype=np.float32)[plank.astype(int) % 64]
    grain = noise(rng, side, 40 * unit, 1.5 * unit)
    end = (x + 37 * plank) % 90 < 1.2
    gap = (y % 12 < 1.2) | end
    boards = mix(np.clip(0.55 * grain + 0.45 * tone, 0, 1), (125, 75, 35), (205, 150, 90))
    return np.where(gap[..., None], np.float32(55), boards)


def asphalt(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    grit, wear = noise(rng, side, 1), noise(rng, side, 35 * unit)
    return mix(0.6 * grit + 0.4 * wear, (40, 40, 45), (120, 120, 125))


def gravel(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    stones = noise(rng, side, 3.5 * unit)
    edges = np.abs(stones - 0.5) * 2
    tone = noise(rng, side, 6 * unit)
    return mix(np.clip(0.7 * edges + 0.5 * tone - 0.1, 0, 1), (55, 50, 45), (215, 205, 190))


def tiled_floor(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    x, y = _coordinates(side, unit)
    tile = rng.uniform(9, 13)
    x, y = x + rng.uniform(0, tile), y + rng.uniform(0, tile)
    odd = ((np.floor(x / tile) + np.floor(y / tile)) % 2).astype(np.float32)
    dark = tuple(rng.uniform(20, 110, 3))
    tiles = mix(odd, dark, (235, 235, 230)) + 15 * noise(rng, side, 15 * unit)[..., None]
    joint = (x % tile < 0.8) | (y % tile < 0.8)
    return np.where(joint[..., None], np.float32(150), tiles)


def carpet(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    x, y = _coordinates(side, unit)
    period = rng.uniform(10, 16)
    lattice = np.cos((x + y) * 2 * np.pi / period) * np.cos((x - y) * 2 * np.pi / period)
    pattern = np.clip(0.5 + 1.2 * lattice + 0.5 * noise(rng, side, 1.5) - 0.25, 0, 1)
    return mix(pattern, (110, 15, 60), (215, 120, 165))


def lava(rng: np.random.Generator, side: int, unit: float) -> np.ndarray:
    rock = 0.7 * noise(rng, side, 16 * unit) + 0.3 * noise(rng, side, 6 * unit)
    crack = np.clip(1 - np.abs(rock - 0.5) * 9, 0, 1)
    crust = mix(noise(rng, side, 3 * unit), (30, 15, 15), (75, 45, 40))
    return crust * (1 - crack[..., None]) + mix(crack, (200, 30, 0), (255, 210, 40)) * crack[..., None]


TEXTURES: dict[str, Texture] = {
    "grass": grass,
    "water": water,
    "sand": sand,
    "sky": sky,
    "brick wall": brick_wall,
    "snow": snow,
    "wooden floor": wooden_floor,
    "asphalt": asphalt,
    "gravel": gravel,
    "tiled floor": tiled_floor,
    "carpet": carpet,
    "lava": lava,
}
