"""Drawn scenes with exact panoptic truth: ``shapes``, the built-in data set.

Axes: H W pixels. One number per image, its difficulty, drives object count, size, overlap, colour likeness,
texture and camouflage together: from one large figure on two plain grounds to a clutter of small figures and
crossing worms of nearly one colour. Hard scenes need context carried over the image: a worm is one object
along its whole winding length, and a lamp is lit or not depending on a sun or moon far away. A scene is a
function of (seed, split, index, knobs) alone. The scenes are our own invention; the truth is exact because id
map and picture come from the same coverage.
"""

import colorsys
import math
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ecocli.config.dataset import SceneConfig
from ecocli.data.panoptic import Segment
from ecocli.data.shapes.backdrop import STUFF, draw_noise, draw_regions, grid, paint_regions
from ecocli.data.shapes.outlines import Outline, Patch, rasterise, regular, star, worm

FloatArray = NDArray[np.float32]

_DISK, _SQUARE, _TRIANGLE, _RING, _STAR, _WORM, _LIT_LAMP, _UNLIT_LAMP = range(1, 9)
_MARKER = 0
# Hue of each class, and the side on which it lies of the hue it shares with one other class.
_HUE_OF = {
    _DISK: (0.0, -1.0),
    _RING: (0.0, 1.0),
    _SQUARE: (0.78, -1.0),
    _STAR: (0.78, 1.0),
    _TRIANGLE: (0.45, -1.0),
    _WORM: (0.45, 1.0),
}
_MIN_AREA_PX = 14
_PLACEMENT_TRIES = 12


def scene_difficulty(seed: int, index: int, knobs: SceneConfig, split: str = "train") -> float:
    """Give the difficulty of a scene, 0 (easy) to 1 (hard), without drawing it."""
    return _draw_difficulty(_generator(seed, split, index), knobs)


def draw_scene(
    seed: int, index: int, knobs: SceneConfig, split: str = "train"
) -> tuple[NDArray[np.uint8], NDArray[np.int32], tuple[Segment, ...]]:
    """Draw one scene.

    Args:
        index: Position of the image in its split, from 0.
        split: Name of the split; splits share no scene.

    Returns:
        RGB image [H, W, 3], id map [H, W] with 0 = unlabelled, and the segments in ascending id order.
    """
    rng = _generator(seed, split, index)
    difficulty = _draw_difficulty(rng, knobs)
    painter = _Painter(rng, knobs, difficulty)
    painter.ground()
    if rng.uniform() < knobs.void:
        painter.void()
    if difficulty > 0.35 and rng.uniform() < knobs.crowd:
        painter.crowd()
    if rng.uniform() < knobs.far_context:
        painter.lamps()
    painter.figures()
    return painter.finish()


def _generator(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index])


def _draw_difficulty(rng: np.random.Generator, knobs: SceneConfig) -> float:
    weights = np.array([knobs.easy_weight, knobs.medium_weight, knobs.hard_weight])
    regime = int(np.searchsorted(np.cumsum(weights), rng.uniform() * weights.sum(), side="right"))
    low, high = ((0.0, 0.25), (0.25, 0.65), (0.65, 1.0))[min(regime, 2)]
    return float(rng.uniform(low, high))


def _mix(easy: float, hard: float, difficulty: float) -> float:
    return easy + (hard - easy) * difficulty


class _Painter:
    """Paints one scene: picture and id map together, later figures over earlier ones."""

    def __init__(self, rng: np.random.Generator, knobs: SceneConfig, difficulty: float) -> None:
        self.rng = rng
        self.knobs = knobs
        self.size = knobs.size
        self.difficulty = difficulty
        self.id_map = np.zeros((self.size, self.size), np.int32)
        self.canvas: FloatArray = np.zeros((self.size, self.size, 3), np.float32)
        self.category_of: dict[int, int] = {}
        self.crowd_ids: set[int] = set()
        self.visible: dict[int, int] = {}
        self.full: dict[int, int] = {}
        self.next_id = 1
        self.families = [self._hue_color(rng.uniform()) for _ in range(2)]
        self.focus = rng.uniform(0.3, 0.7, 2) * self.size

    # -- ground, unlabelled parts, crowds ------------------------------------------------------------------

    def ground(self) -> None:
        """Lay the stuff regions: one segment per stuff class."""
        self.regions = draw_regions(self.rng, self.size, self.difficulty)
        self.canvas = paint_regions(self.rng, self.regions, self.difficulty)
        self.id_map = (self.regions + 1).astype(np.int32)
        for rank in np.flatnonzero(np.bincount(self.regions.ravel())).tolist():
            self.category_of[rank + 1] = STUFF[rank].id
        self.next_id = len(STUFF) + 1

    def void(self) -> None:
        """Leave something unlabelled: the seams between the grounds, or a scribbled-out blob."""
        if self.rng.uniform() < 0.5:
            seam = np.zeros_like(self.regions, dtype=bool)
            seam[1:] |= self.regions[1:] != self.regions[:-1]
            seam[:, 1:] |= self.regions[:, 1:] != self.regions[:, :-1]
            self.id_map[seam] = 0
            self.canvas[seam] *= np.float32(0.45)
            return
        center = self._point()
        radius = self.size * self.rng.uniform(0.06, 0.13)
        points = regular(center, radius, 14, self.rng.uniform(0.0, 6.3))
        points += self.rng.normal(0.0, 0.16 * radius, points.shape).astype(np.float32)
        patch = rasterise([Outline(points)], self.size, self.size)
        if patch is not None:
            self._blend(patch, np.array([58.0, 56.0, 60.0], np.float32), rim=False)
            self._label(patch, 0)

    def crowd(self) -> None:
        """Draw a dense group of tiny figures, labelled as one crowd segment."""
        category = int(self.rng.choice([_DISK, _TRIANGLE]))
        center = self._point()
        spread = self.size * self.rng.uniform(0.11, 0.17)
        hull = rasterise([Outline(regular(center, spread, 24, 0.0))], self.size, self.size)
        if hull is None:
            return
        self._label(hull, self._new_id(category, crowd=True))
        corners = 10 if category == _DISK else 3
        tiny = self.size * 0.022
        for _ in range(3):
            angles, radii = self.rng.uniform(0.0, 6.3, 14), spread * np.sqrt(self.rng.uniform(0.0, 0.85, 14))
            outlines = [
                Outline(regular((center[0] + r * math.cos(a), center[1] + r * math.sin(a)), tiny, corners, a))
                for a, r in zip(angles.tolist(), radii.tolist(), strict=True)
            ]
            patch = rasterise(outlines, self.size, self.size)
            if patch is not None:
                self._blend(patch, self._color(center, category))

    # -- figures -------------------------------------------------------------------------------------------

    def lamps(self) -> None:
        """Draw a sun or a moon near the border (unlabelled), and lamps: lit by night, unlit by day."""
        by_night = bool(self.rng.uniform() < 0.5)
        radius = self.size * 0.055
        along = self.rng.uniform(0.1, 0.9) * self.size
        across = float(self.rng.choice([0.09, 0.91])) * self.size
        center = (along, across) if self.rng.uniform() < 0.5 else (across, along)
        turn = self.rng.uniform(0.0, 6.3)
        if by_night:
            outline, color = self._crescent(center, radius, turn), (236.0, 240.0, 255.0)
        else:
            outline, color = Outline(star(center, 1.3 * radius, turn, 9, 0.62)), (255.0, 214.0, 40.0)
        self._place(outline, _MARKER, np.array(color, np.float32))
        category = _LIT_LAMP if by_night else _UNLIT_LAMP
        for _ in range(1 + int(self.rng.uniform(0.0, 1.0 + 2.5 * self.difficulty))):
            for _ in range(_PLACEMENT_TRIES):
                x, y = self._point()
                if math.hypot(x - center[0], y - center[1]) < 0.4 * self.size:
                    continue
                radius = self._radius() * 0.9
                body = regular((x, y), radius, 6, math.pi / 6)
                if self._place(Outline(body), category, np.array([214.0, 208.0, 200.0], np.float32)):
                    break

    def figures(self) -> None:
        """Place the figures, more and smaller ones the harder the scene."""
        spread = self.rng.uniform(0.75, 1.15)
        count = 1 + round(self.difficulty * (self.knobs.max_objects - 1) * spread)
        worm_share = _mix(0.3, 1.0, self.difficulty) * self.knobs.worms
        for _ in range(count):
            is_worm = self.rng.uniform() < worm_share
            category = _WORM if is_worm else int(self.rng.integers(_DISK, _WORM))
            for _ in range(_PLACEMENT_TRIES):
                center = self._point()
                outline = self._outline(category, center)
                if self._place(outline, category, self._color(center, category)):
                    break

    def _outline(self, category: int, center: tuple[float, float]) -> Outline:
        rng, radius, turn = self.rng, self._radius(), self.rng.uniform(0.0, 2 * math.pi)
        if category == _DISK:
            return Outline(regular(center, radius, 40, 0.0))
        if category == _SQUARE:
            return Outline(regular(center, 1.2 * radius, 4, turn))
        if category == _TRIANGLE:
            return Outline(regular(center, 1.3 * radius, 3, turn))
        if category == _RING:
            hole = regular(center, radius * 0.52, 40, 0.0)
            return Outline(regular(center, 1.08 * radius, 40, 0.0), hole=hole)
        if category == _STAR:
            return Outline(star(center, 1.3 * radius, turn, 5, 0.42))
        length = self.size * rng.uniform(0.5, 0.9) * _mix(0.9, 1.1, self.difficulty)
        points = worm(rng, center, length, bend=0.25, step=self.size / 50)
        return Outline(points, width=self.size * _mix(0.075, 0.045, self.difficulty))

    def _crescent(self, center: tuple[float, float], radius: float, turn: float) -> Outline:
        shift = (center[0] + 0.5 * radius * math.cos(turn), center[1] + 0.5 * radius * math.sin(turn))
        return Outline(regular(center, radius, 24, 0.0), hole=regular(shift, 0.8 * radius, 24, 0.0))

    # -- placing -------------------------------------------------------------------------------------------

    def _radius(self) -> float:
        return self.size * _mix(self.rng.uniform(0.16, 0.26), self.rng.uniform(0.07, 0.12), self.difficulty)

    def _point(self) -> tuple[float, float]:
        """Choose where to put something: anywhere when easy, near the focus of the clutter when hard."""
        if self.rng.uniform() < 0.6 * self.knobs.clutter * self.difficulty:
            x, y = self.focus + self.rng.normal(0.0, 0.16 * self.size, 2)
        else:
            x, y = self.rng.uniform(0.08, 0.92, 2) * self.size
        return float(x), float(y)

    def _place(self, outline: Outline, category: int, color: FloatArray) -> bool:
        """Paint a figure, unless it would hide too much of an earlier one; a marker ends up unlabelled."""
        patch = rasterise([outline], self.size, self.size)
        if patch is None:
            return False
        inside = patch.coverage > 0.5
        area = int(inside.sum())
        below = np.bincount(self.id_map[patch.rows, patch.columns][inside], minlength=self.next_id)
        hidden_limit = self.knobs.clutter * self.difficulty * 0.5
        hidden = below[len(STUFF) + 1 :].sum()
        if area < 2 * _MIN_AREA_PX or hidden > max(0.02, 1.6 * hidden_limit) * area:
            return False
        for id_, full in self.full.items():
            limit = 0.0 if self.category_of[id_] == _MARKER else max(0.05, hidden_limit)
            if self.visible[id_] - below[id_] < (1.0 - limit) * full:
                return False
        for other in self.visible:
            self.visible[other] -= int(below[other])
        id_ = self._new_id(category)
        self.visible[id_] = self.full[id_] = area
        self._blend(patch, color)
        self._label(patch, id_)
        return True

    def _new_id(self, category: int, crowd: bool = False) -> int:
        id_ = self.next_id
        self.next_id += 1
        self.category_of[id_] = category
        if crowd:
            self.crowd_ids.add(id_)
        return id_

    def _label(self, patch: Patch, id_: int) -> None:
        self.id_map[patch.rows, patch.columns][patch.coverage > 0.5] = id_

    # -- colours -------------------------------------------------------------------------------------------

    def _hue_color(self, hue: float) -> FloatArray:
        saturation, value = self.rng.uniform(0.55, 0.95), self.rng.uniform(0.55, 1.0)
        return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32) * np.float32(255.0)

    def _color(self, center: tuple[float, float], category: int) -> FloatArray:
        """Choose a fill: the hue of the class when easy; of two families, like the ground below, when hard.

        Two classes share each hue and part only in easy scenes, so that colour tells them apart there, while in hard
        scenes it narrows the choice and shape decides it.
        """
        hue = self.rng.uniform()
        if self.rng.uniform() < _mix(1.0, self.knobs.color_cue, self.difficulty):
            shared, side = _HUE_OF[category]
            hue = (shared + 0.075 * side * (1.0 - self.difficulty) + 0.12 * (hue - 0.5)) % 1.0
        color = self._hue_color(hue)
        family = self.families[int(self.rng.integers(2))]
        likeness = np.float32(min(1.0, 1.2 * self.knobs.clutter * self.difficulty))
        color += likeness * (family - color)
        row, column = (min(self.size - 1, max(0, int(v))) for v in (center[1], center[0]))
        hiding = np.float32(self.knobs.camouflage * self.difficulty * self.rng.uniform(0.0, 1.0))
        color += hiding * (self.canvas[row, column] - color)
        return color

    def _blend(self, patch: Patch, color: FloatArray, rim: bool = True) -> None:
        """Paint a covered patch, lit from the upper left, with a darker rim one pixel wide."""
        coverage = patch.coverage
        height, width = coverage.shape
        light = (
            np.float32(1.1)
            - np.float32(0.1 / height) * np.arange(height, dtype=np.float32)[:, None]
            - np.float32(0.1 / width) * np.arange(width, dtype=np.float32)
        )
        if rim:
            inner = Image.fromarray((coverage * 255).astype(np.uint8)).filter(ImageFilter.MinFilter(3))
            light *= np.float32(0.62) + np.float32(0.38 / 255) * np.asarray(inner, np.float32)
        target = self.canvas[patch.rows, patch.columns]
        target += coverage[..., None] * (light[..., None] * color - target)

    # -- end -----------------------------------------------------------------------------------------------

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.int32], tuple[Segment, ...]]:
        """Light the scene, add noise, drop slivers to unlabelled, and measure the segments."""
        rng, size = self.rng, self.size
        x, y = grid(size)
        angle = rng.uniform(0.0, 2 * math.pi)
        strength = self.knobs.illumination * _mix(0.3, 1.0, self.difficulty) * rng.uniform(0.3, 1.0)
        slope = np.float32(math.cos(angle)) * (x - np.float32(0.5))
        slope = slope + np.float32(math.sin(angle)) * (y - np.float32(0.5))
        self.canvas *= (np.float32(1.0) + np.float32(strength) * slope)[..., None]
        noise = self.knobs.noise * _mix(0.3, 1.0, self.difficulty)
        self.canvas += draw_noise(rng, (size, size, 3), noise)
        image = np.clip(self.canvas, 0.0, 255.0, out=self.canvas).astype(np.uint8)
        areas = np.bincount(self.id_map.ravel(), minlength=self.next_id)
        kept = (id_ for id_, category in self.category_of.items() if category != _MARKER)
        order = [id_ for id_ in sorted(kept) if areas[id_] >= _MIN_AREA_PX]
        renumber = np.zeros(self.next_id, np.int32)
        renumber[order] = np.arange(1, len(order) + 1, dtype=np.int32)
        id_map = renumber[self.id_map]
        segments = tuple(
            Segment(rank, self.category_of[id_], id_ in self.crowd_ids, int(areas[id_]), _box(id_map == rank))
            for rank, id_ in enumerate(order, start=1)
        )
        return image, id_map, segments


def _box(inside: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Give left, top, width, height of the True pixels."""
    columns = np.flatnonzero(inside.any(axis=0))
    rows = np.flatnonzero(inside.any(axis=1))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1
