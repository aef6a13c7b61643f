"""Procedural surfaces for tables, floors and walls, computed by numpy: no files, no licences."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

SIDE = 256


def smooth_noise(rng: np.random.Generator, cells_y: int, cells_x: int) -> NDArray[np.float64]:
    """Bilinear value noise that tiles, (SIDE, SIDE) in [0, 1]."""
    grid = rng.random((cells_y, cells_x))
    y, x = np.linspace(0, cells_y, SIDE, endpoint=False), np.linspace(0, cells_x, SIDE, endpoint=False)
    y0, x0 = y.astype(int), x.astype(int)
    fy, fx = (y - y0)[:, None], (x - x0)[None]
    fy, fx = fy * fy * (3 - 2 * fy), fx * fx * (3 - 2 * fx)
    y1, x1 = (y0 + 1) % cells_y, (x0 + 1) % cells_x
    top = grid[y0][:, x0] * (1 - fx) + grid[y0][:, x1] * fx
    bottom = grid[y1][:, x0] * (1 - fx) + grid[y1][:, x1] * fx
    return top * (1 - fy) + bottom * fy


def cloud(rng: np.random.Generator, cells: int = 4, octaves: int = 4) -> NDArray[np.float64]:
    total = sum(smooth_noise(rng, cells << k, cells << k) / 2**k for k in range(octaves))
    return (total - total.min()) / (np.ptp(total) + 1e-9)


def colour(rng: np.random.Generator, saturation: float, value: tuple[float, float]) -> NDArray[np.float64]:
    """A random RGB colour in [0, 1], at most this saturated."""
    hue = rng.random(3)
    hue = (hue - hue.min()) / (np.ptp(hue) + 1e-9)
    s, v = rng.uniform(0, saturation), rng.uniform(*value)
    return v * (1 - s + s * hue)


def blend(a: NDArray[np.float64], b: NDArray[np.float64], amount: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mixes colours a and b, (3,) or (SIDE, SIDE, 3), by amount (SIDE, SIDE) in [0, 1]. Returns (SIDE, SIDE, 3)."""
    return a + (b - a) * amount[..., None]


def wood(rng: np.random.Generator) -> NDArray[np.float64]:
    tones = np.array(
        [[0.36, 0.22, 0.12], [0.62, 0.43, 0.26], [0.80, 0.65, 0.45], [0.50, 0.30, 0.18], [0.72, 0.60, 0.50]]
    )
    base = tones[rng.integers(len(tones))] * rng.uniform(0.75, 1.15)
    grain = smooth_noise(rng, 3, 48) * 0.5 + smooth_noise(rng, 2, 96) * 0.3 + smooth_noise(rng, 6, 12) * 0.4
    rings = 0.5 + 0.5 * np.sin((smooth_noise(rng, 2, 6) * 5 + grain * 1.5) * 2 * np.pi)
    image = blend(base * rng.uniform(0.6, 0.85), base, 0.35 * rings + 0.65 * grain / grain.max())
    if rng.random() < 0.6:  # boards
        edges = np.linspace(0, SIDE, rng.integers(3, 7), dtype=int)
        for left, right in itertools.pairwise(edges):
            image[:, left:right] *= rng.uniform(0.82, 1.1)
            image[:, left : left + 2] *= 0.6
    return image


def plain(rng: np.random.Generator) -> NDArray[np.float64]:
    base = colour(rng, 0.6, (0.15, 0.95))
    return blend(base * 0.93, base, cloud(rng, 8, 3))


def stone(rng: np.random.Generator) -> NDArray[np.float64]:
    veins = 1 - np.abs(2 * cloud(rng, 3, 5) - 1)
    base = colour(rng, 0.15, (0.3, 0.95))
    return blend(base, base * rng.uniform(0.5, 0.8), veins ** rng.uniform(2, 8))


def speckle(rng: np.random.Generator) -> NDArray[np.float64]:
    base, dots = colour(rng, 0.2, (0.2, 0.9)), colour(rng, 0.2, (0.1, 0.95))
    grains = rng.random((SIDE, SIDE))
    return blend(base, dots, (grains > rng.uniform(0.8, 0.95)) * 0.7 + 0.2 * cloud(rng))


def stripes(rng: np.random.Generator) -> NDArray[np.float64]:
    a, b = colour(rng, 0.7, (0.3, 0.95)), colour(rng, 0.7, (0.3, 0.95))
    phase = np.arange(SIDE) / SIDE * rng.integers(4, 14) % 1
    return blend(a, b, np.broadcast_to(phase < rng.uniform(0.2, 0.6), (SIDE, SIDE)) * 0.9)


def checks(rng: np.random.Generator) -> NDArray[np.float64]:
    """Gingham: translucent stripes both ways, as on table cloths."""
    count, share = rng.integers(4, 12), rng.uniform(0.3, 0.6)
    stripe = (np.arange(SIDE) / SIDE * count % 1 < share).astype(float)
    return blend(colour(rng, 0.2, (0.75, 0.98)), colour(rng, 0.8, (0.3, 0.8)), 0.5 * (stripe[:, None] + stripe[None]))


def tiles(rng: np.random.Generator) -> NDArray[np.float64]:
    count = int(rng.integers(2, 7))
    base, joint = colour(rng, 0.4, (0.4, 0.95)), colour(rng, 0.1, (0.3, 0.8))
    tint = np.kron(rng.uniform(0.88, 1.0, (count, count)), np.ones((SIDE // count + 1,) * 2))[:SIDE, :SIDE]
    lines = np.arange(SIDE) % (SIDE / count) < rng.uniform(2, 6)
    image = base * tint[..., None]
    image[lines[:, None] | lines[None]] = joint
    return image


def weave(rng: np.random.Generator) -> NDArray[np.float64]:
    threads = rng.integers(20, 60)
    wave = 0.5 + 0.25 * (
        np.sin(np.arange(SIDE) / SIDE * threads * 2 * np.pi)[:, None]
        + np.sin(np.arange(SIDE) / SIDE * threads * 2 * np.pi)[None]
    )
    base = colour(rng, 0.5, (0.3, 0.95))
    return blend(base * 0.75, base, 0.7 * wave + 0.3 * cloud(rng))


KINDS = (wood, wood, wood, plain, plain, stone, speckle, stripes, checks, tiles, weave)


def surface(seed: int) -> NDArray[np.uint8]:
    """Texture number ``seed``, (256, 256, 3) uint8 RGB. Equal numbers give equal textures."""
    rng = np.random.default_rng([seed, 20])
    image = KINDS[seed % len(KINDS)](rng)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)
