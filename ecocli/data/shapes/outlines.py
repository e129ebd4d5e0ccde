"""Outlines of the drawn figures and their rasterisation with anti-aliased edges.

Axes: H W pixels, N outline points. Coordinates are (x, y) in pixels; pixel i covers [i, i + 1). Drawing is
Pillow's, four times finer than the image, then averaged: an edge pixel's coverage is exact to 1/16.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

FINENESS = 4

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Outline:
    """A figure to be filled: polygons, or one thick line.

    Attributes:
        points: Points of the outer polygon [N, 2], or of the line's centre.
        hole: Points of a polygon to be left out, if any.
        width: Thickness in pixels for a line, 0 for a polygon.
    """

    points: FloatArray
    hole: FloatArray | None = None
    width: float = 0.0


@dataclass(frozen=True)
class Patch:
    """Part of an image covered by a figure.

    Attributes:
        coverage: Share of every pixel that the figure covers, 0 to 1.
    """

    rows: slice
    columns: slice
    coverage: FloatArray


def regular(center: tuple[float, float], radius: float, corners: int, turn: float) -> FloatArray:
    """Give the corners of a regular polygon [N, 2] of the given circumscribed radius."""
    angles = np.arange(corners, dtype=np.float32) * np.float32(2 * math.pi / corners) + np.float32(turn)
    points = np.empty((corners, 2), np.float32)
    points[:, 0] = np.cos(angles) * np.float32(radius) + np.float32(center[0])
    points[:, 1] = np.sin(angles) * np.float32(radius) + np.float32(center[1])
    return points


def star(center: tuple[float, float], radius: float, turn: float, spikes: int, depth: float) -> FloatArray:
    """Give the corners of a star [N, 2]; ``depth`` is the inner radius as a share of the outer one."""
    points = regular((0.0, 0.0), radius, 2 * spikes, turn)
    points[1::2] *= np.float32(depth)
    return np.asarray(points + np.asarray(center, np.float32), np.float32)


def worm(rng: np.random.Generator, center: tuple[float, float], length: float, bend: float, step: float) -> FloatArray:
    """Draw the centre line of a worm [N, 2]: a walk whose heading changes smoothly.

    Args:
        center: Middle of the worm's bounding box, in pixels.
        length: Length along the worm, in pixels.
        bend: Largest change of heading per unit of ``step``, in radians.
        step: Distance between points, in pixels.
    """
    count = max(4, int(length / step))
    knots = rng.uniform(-bend, bend, size=max(3, count // 10 + 2))
    turns = np.interp(np.linspace(0.0, knots.size - 1.0, count), np.arange(knots.size), knots)
    heading = rng.uniform(0.0, 2 * math.pi) + np.cumsum(turns)
    points = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1) * step, axis=0)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    return np.asarray(points - middle + np.asarray(center), np.float32)


def rasterise(outlines: list[Outline], height: int, width: int) -> Patch | None:
    """Fill figures into the smallest patch of the image that holds them all.

    Returns:
        Their joint coverage, or None when they lie outside the image.
    """
    low = np.min([outline.points.min(axis=0) - outline.width / 2 for outline in outlines], axis=0)
    high = np.max([outline.points.max(axis=0) + outline.width / 2 for outline in outlines], axis=0)
    left, top = max(0, math.floor(low[0])), max(0, math.floor(low[1]))
    right, bottom = min(width, math.ceil(high[0])), min(height, math.ceil(high[1]))
    if right - left < 1 or bottom - top < 1:
        return None
    canvas = Image.new("L", ((right - left) * FINENESS, (bottom - top) * FINENESS))
    draw = ImageDraw.Draw(canvas)
    corner = np.array([left, top], np.float32)
    for outline in outlines:
        if outline.width > 0.0:
            for piece in _band(outline.points, outline.width / 2):
                draw.polygon(_to_canvas(piece, corner), fill=255)
            radius = outline.width * FINENESS / 2
            for end in outline.points[[0, -1]]:
                x, y = _to_canvas(end, corner)
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
            continue
        draw.polygon(_to_canvas(outline.points, corner), fill=255)
        if outline.hole is not None:
            draw.polygon(_to_canvas(outline.hole, corner), fill=0)
    coverage = np.asarray(canvas.reduce(FINENESS), np.float32) * np.float32(1 / 255)
    return Patch(slice(top, bottom), slice(left, right), coverage)


def _band(points: FloatArray, half_width: float) -> list[FloatArray]:
    """Give polygons that cover a thick line; short pieces, since a polygon that crosses itself has holes."""
    along = np.gradient(points, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * np.float32(half_width)
    left, right = points + across, points - across
    return [
        np.concatenate([left[start : start + 7], right[start : start + 7][::-1]])
        for start in range(0, len(points) - 1, 6)
    ]


def _to_canvas(points: FloatArray, corner: FloatArray) -> list[float]:
    """Move image coordinates to the fine canvas, whose pixel centres are whole numbers; x and y in turn."""
    fine: list[float] = ((points - corner) * FINENESS - 0.5).ravel().tolist()
    return fine
