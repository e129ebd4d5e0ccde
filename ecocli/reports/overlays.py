"""Panoptic maps as pictures: coloured segments with outlines and names over the image.

Axes: H W pixels of the image, S drawing scale. A class keeps its category's colour; further instances of a thing get
shades of it, always the same ones, so equal inputs give equal pixels. Small images are enlarged so that names fit.
"""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ecocli.data.categories import Category

_OPACITY = 0.6
_OUTLINE = (255, 255, 255)
_VOID_OPACITY = 0.5
_VOID_GREY = 128.0
_HATCH_PX = 8
_MAX_LABEL_SHARE = 0.5
_TEXT_PX = 13
_MIN_LABEL_PX = 9
_GOLDEN_RATIO = 0.618034


@runtime_checkable
class Drawable(Protocol):
    """A segment of the map, true or predicted."""

    @property
    def id(self) -> int:
        """Value of its pixels."""

    @property
    def category_id(self) -> int:
        """The data set's category id."""


@dataclass(frozen=True)
class PanopticPicture:
    """A panoptic map with what its ids mean."""

    panoptic_map: Int32[np.ndarray, "H W"]
    segments: Sequence[Drawable]


def segment_colors(segments: Sequence[Drawable], categories: Sequence[Category]) -> dict[int, tuple[int, int, int]]:
    """Choose a colour per segment id: the category's own, then shades of it for its further instances."""
    by_id = {category.id: category for category in categories}
    seen: dict[int, int] = {}
    colors = {}
    for segment in sorted(segments, key=lambda s: s.id):
        number = seen.get(segment.category_id, 0)
        seen[segment.category_id] = number + 1
        colors[segment.id] = _shade(by_id[segment.category_id].color, number)
    return colors


def draw_overlay(
    image: UInt8[np.ndarray, "H W 3"],
    picture: PanopticPicture,
    categories: Sequence[Category],
    scale: int = 1,
) -> Image.Image:
    """Draw a panoptic map over its image.

    Args:
        scale: Whole factor of enlargement.
    """
    canvas = np.asarray(enlarge(image, scale), np.float32)
    ids = picture.panoptic_map.repeat(scale, axis=0).repeat(scale, axis=1)
    colors = segment_colors(picture.segments, categories)
    paint = np.zeros_like(canvas)
    for segment_id, color in colors.items():
        paint[ids == segment_id] = color
    void = canvas * (1 - _VOID_OPACITY) + _VOID_GREY * _VOID_OPACITY
    rows, columns = np.indices(ids.shape)
    hatching = np.asarray((rows + columns) % _HATCH_PX < 2)[..., None]
    hatched = np.where(hatching, _OUTLINE, void)
    blended = np.where((ids == 0)[..., None], hatched, canvas * (1 - _OPACITY) + paint * _OPACITY)
    blended[_outlines(ids)] = _OUTLINE
    overlay = Image.fromarray(blended.round().clip(0, 255).astype(np.uint8))
    names = {category.id: category.name for category in categories}
    _write_names(overlay, ids, picture.segments, names)
    return overlay


def enlarge(image: UInt8[np.ndarray, "H W 3"], scale: int) -> Image.Image:
    """Enlarge an image smoothly by a whole factor."""
    height, width = image.shape[:2]
    return Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.BICUBIC)


def drawing_scale(height: int, width: int, wanted_px: int = 360) -> int:
    """Return the whole factor that brings the longer side to about the wanted length."""
    return max(1, round(wanted_px / max(height, width)))


def _shade(color: tuple[int, int, int], number: int) -> tuple[int, int, int]:
    if number == 0:
        return color
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    step = (number * _GOLDEN_RATIO) % 1.0 - 0.5
    lightness = min(max(lightness + 0.36 * step, 0.25), 0.85)
    red, green, blue = colorsys.hls_to_rgb((hue + 0.1 * step) % 1.0, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _outlines(ids: Int32[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Mark pixels whose right or lower neighbour belongs to another segment."""
    edge = np.zeros(ids.shape, bool)
    edge[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    edge[:-1] |= ids[1:] != ids[:-1]
    return edge


def _write_names(
    overlay: Image.Image,
    ids: Int32[np.ndarray, "h w"],
    segments: Sequence[Drawable],
    names: Mapping[int, str],
) -> None:
    """Write each segment's class at its most inner point, largest first, leaving out what would overlap or cover it."""
    draw = ImageDraw.Draw(overlay)
    font = ImageFont.load_default(_TEXT_PX)
    taken: list[tuple[float, float, float, float]] = []
    areas = {segment.id: int((ids == segment.id).sum()) for segment in segments}
    for segment in sorted(segments, key=lambda s: (-areas[s.id], s.id)):
        inside = np.pad(ids == segment.id, 1)
        depth = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        if depth[row, column] < _MIN_LABEL_PX:
            continue
        text = names[segment.category_id]
        left, top, right, bottom = draw.textbbox((int(column), int(row)), text, font=font, anchor="mm")
        shift = max(2 - left, 0) + min(overlay.width - 2 - right, 0)
        box = (left + shift - 3, top - 2, right + shift + 3, bottom + 2)
        if (box[2] - box[0]) * (box[3] - box[1]) > _MAX_LABEL_SHARE * areas[segment.id]:
            continue
        if any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
            continue
        taken.append(box)
        draw.rounded_rectangle(box, radius=3, fill=(20, 20, 24))
        draw.text((int(column) + shift, int(row)), text, font=font, anchor="mm", fill=(255, 255, 255))
