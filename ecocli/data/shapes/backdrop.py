"""The ground of a drawn scene: regions of stuff, their colours and textures.

Axes: H W pixels. A region map [H, W] holds ranks in ``STUFF``. Colours are float32 RGB in 0..255.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ecocli.data.categories import SHAPES, Category

FloatArray = NDArray[np.float32]
RegionMap = NDArray[np.intp]

STUFF: tuple[Category, ...] = tuple(category for category in SHAPES if not category.is_thing)
"""The stuff classes, from the top of an ordinary picture to its bottom."""

_BASE_COLORS = np.array([[150, 200, 238], [176, 104, 88], [62, 118, 190], [222, 202, 150], [98, 160, 76]], np.float32)

_NORMAL_QUANTILES = np.array([NormalDist().inv_cdf((level + 0.5) / 256) for level in range(256)], np.float32)


def grid(size: int) -> tuple[FloatArray, FloatArray]:
    """Give pixel-centre coordinates in 0..1: columns [1, W] and rows [H, 1]."""
    centers = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    return centers[None, :], centers[:, None]


def draw_noise(rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> FloatArray:
    """Draw normal noise, quantised to 256 values: five times faster than exact, and nobody can see the difference."""
    values = (_NORMAL_QUANTILES * np.float32(deviation)).astype(np.float32)
    return values[np.frombuffer(rng.bytes(math.prod(shape)), np.uint8).reshape(shape)]


def draw_regions(rng: np.random.Generator, size: int, difficulty: float) -> RegionMap:
    """Part the picture into regions of stuff: two at a horizon when easy, up to five patches when hard."""
    wanted = 2 + int(rng.uniform(0.0, 1.0) < difficulty) + int(2 * difficulty * rng.uniform(0.3, 1.2))
    chosen = np.sort(rng.permutation(len(STUFF))[: min(wanted, len(STUFF))])
    if rng.uniform() < 0.25 + 0.5 * difficulty and wanted > 2:
        return _patches(rng, size, rng.permutation(chosen))
    return _horizons(rng, size, chosen, difficulty)


def _horizons(rng: np.random.Generator, size: int, chosen: RegionMap, difficulty: float) -> RegionMap:
    x, y = grid(size)
    count = len(chosen)
    rank = np.zeros((size, size), np.intp)
    heights = (np.arange(1, count) + rng.uniform(-0.25, 0.25, count - 1)) / count
    for height in heights:
        slope = rng.uniform(-0.3, 0.3)
        wave = rng.uniform(0.0, 0.02 + 0.06 * difficulty)
        frequency, phase = rng.uniform(4.0, 14.0), rng.uniform(0.0, 2 * math.pi)
        line = height + slope * (x - 0.5) + wave * np.sin(frequency * x + phase)
        rank += y > line
    return chosen[rank]


def _patches(rng: np.random.Generator, size: int, chosen: RegionMap) -> RegionMap:
    x, y = grid(size)
    centers = rng.uniform(0.0, 1.0, (len(chosen) + 2, 2)).astype(np.float32)
    amplitude, phase = rng.uniform(0.0, 0.05), rng.uniform(0.0, 2 * math.pi)
    bent_x = x + np.float32(amplitude) * np.sin(np.float32(9.0) * y + np.float32(phase))
    bent_y = y + np.float32(amplitude) * np.sin(np.float32(7.0) * x + np.float32(phase))
    distances = np.stack([(bent_x - cx) ** 2 + (bent_y - cy) ** 2 for cx, cy in centers])
    nearest: RegionMap = distances.argmin(axis=0)
    return np.asarray(chosen[nearest % len(chosen)])


def paint_regions(rng: np.random.Generator, regions: RegionMap, difficulty: float) -> FloatArray:
    """Colour every region [H, W, 3] with its own base colour, a per-image tint and a mild texture.

    Water nears the sky's colour as scenes get harder, so that texture has to tell them apart.
    """
    size = regions.shape[0]
    x, y = grid(size)
    tint = rng.normal(0.0, 5.0 + 6.0 * difficulty, _BASE_COLORS.shape).astype(np.float32)
    colors = _BASE_COLORS + tint
    colors[2] += np.float32(0.4 * difficulty) * (colors[0] - colors[2])
    canvas = colors[regions]
    scale = np.float32(0.6 + 0.7 * difficulty)
    cell = size / 128.0
    pattern = np.zeros(regions.shape, np.float32)
    for rank in np.flatnonzero(np.bincount(regions.ravel())).tolist():
        pattern = np.where(regions == rank, _texture(rng, rank, x, y, size, cell), pattern)
    canvas += (scale * pattern)[..., None]
    return np.asarray(canvas)


def _texture(rng: np.random.Generator, rank: int, x: FloatArray, y: FloatArray, size: int, cell: float) -> FloatArray:
    """Give the brightness pattern [H, W] of one stuff class, in grey levels."""
    if rank == 0:  # sky: brighter towards the horizon
        return np.broadcast_to(24.0 * y - 12.0, (size, size)).astype(np.float32)
    if rank == 1:  # wall: courses of bricks
        row = np.floor(y * size / (8 * cell))
        joint_y = (y * size) % (8 * cell) < cell
        joint_x = (x * size + 8 * cell * (row % 2)) % (16 * cell) < cell
        return np.where(joint_x | joint_y, np.float32(22.0), np.float32(-3.0))
    if rank == 2:  # water: long ripples
        phase = rng.uniform(0.0, 2 * math.pi)
        ripple = np.sin(np.float32(2 * math.pi * 18) * y + 2.5 * np.sin(np.float32(9.0) * x + phase))
        return np.asarray(11.0 * ripple, np.float32)
    if rank == 3:  # sand: fine grain
        return draw_noise(rng, (size, size), 6.0)
    tufts = rng.standard_normal((size // 4 + 1, size // 2 + 1), np.float32)  # grass: upright blades
    return np.repeat(np.repeat(tufts, 4, axis=0), 2, axis=1)[:size, :size] * np.float32(11.0)
