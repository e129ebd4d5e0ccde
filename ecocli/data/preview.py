"""Contact sheets: images beside their coloured ground truth, with a legend of the categories.

Axes: H W pixels. Stuff has its category's colour; every thing has a shade of its own, so that instances can be told
apart; crowds are darkened; unlabelled pixels are black.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ecocli.data.categories import Category
from ecocli.data.panoptic import PanopticDataset, Segment
from ecocli.runtime.seeds import numpy_generator

_GAP_PX = 6
_LEGEND_ROW_PX = 22
_BACKGROUND = (250, 250, 250)


def color_segments(
    id_map: NDArray[np.int32], segments: Sequence[Segment], categories: Sequence[Category]
) -> NDArray[np.uint8]:
    """Colour an id map; returns RGB [H, W, 3] with black where it is unlabelled."""
    by_id = {category.id: category for category in categories}
    colored = np.zeros((*id_map.shape, 3), np.uint8)
    for segment in segments:
        category = by_id[segment.category_id]
        color = np.array(category.color, np.float64)
        if category.is_thing:
            # Repeatable shades: the same picture whenever it is drawn.
            color = color * numpy_generator("shade", segment.id).uniform(0.7, 1.1) + 8.0
        if segment.is_crowd:
            color *= 0.5
        colored[id_map == segment.id] = np.clip(color, 0, 255).astype(np.uint8)
    border = np.zeros(id_map.shape, bool)
    border[1:] |= id_map[1:] != id_map[:-1]
    border[:, 1:] |= id_map[:, 1:] != id_map[:, :-1]
    colored[border] //= 2
    return colored


def contact_sheet(
    dataset: PanopticDataset, indices: Sequence[int], *, columns: int = 4, tile_px: int = 192
) -> Image.Image:
    """Draw images and their ground truth, side by side, in rows.

    Args:
        indices: Which images, in reading order.
        columns: Pairs in a row.
        tile_px: Longest edge of each picture in the sheet.

    Raises:
        DataError: A file is missing or damaged.
    """
    pairs = []
    for index in indices:
        record = dataset.records[index]
        id_map = dataset.load_panoptic(record)
        colored = color_segments(id_map, record.segments, dataset.categories)
        pairs.append([_fit(picture, tile_px) for picture in (dataset.load_image(record), colored)])
    rows = -(-len(pairs) // columns)
    pair_px = 2 * tile_px + _GAP_PX
    width = columns * pair_px + (columns - 1) * 2 * _GAP_PX + 2 * _GAP_PX
    legend = _draw_legend(dataset.categories, width) if len(dataset.categories) <= 40 else None
    height = rows * (tile_px + _GAP_PX) + _GAP_PX + (legend.height if legend is not None else 0)
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    for position, pair in enumerate(pairs):
        row, column = divmod(position, columns)
        top = _GAP_PX + row * (tile_px + _GAP_PX)
        left = _GAP_PX + column * (pair_px + 2 * _GAP_PX)
        for offset, picture in zip((0, tile_px + _GAP_PX), pair, strict=True):
            sheet.paste(picture, (left + offset, top))
    if legend is not None:
        sheet.paste(legend, (0, height - legend.height))
    return sheet


def _fit(picture: NDArray[np.uint8], tile_px: int) -> Image.Image:
    image = Image.fromarray(picture)
    scale = tile_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Enlarged pixels stay square and sharp; only photographs are averaged down.
    return image.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)


def _draw_legend(categories: Sequence[Category], width: int) -> Image.Image:
    font = ImageFont.load_default(size=13)
    places: list[tuple[int, int, Category]] = []
    left, top = _GAP_PX, 0
    for category in categories:
        needed = 20 + round(font.getlength(category.name)) + 18
        if left + needed > width and left > _GAP_PX:
            left, top = _GAP_PX, top + _LEGEND_ROW_PX
        places.append((left, top, category))
        left += needed
    legend = Image.new("RGB", (width, top + _LEGEND_ROW_PX + _GAP_PX), _BACKGROUND)
    draw = ImageDraw.Draw(legend)
    for left, top, category in places:
        draw.rectangle((left, top + 4, left + 13, top + 17), fill=category.color, outline=(60, 60, 60))
        draw.text((left + 19, top + 2), category.name, fill=(30, 30, 30), font=font)
    return legend
