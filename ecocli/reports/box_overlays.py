"""Boxes as pictures: frames in their category's colour with names and scores over the image.

Axes: H W pixels. Small images are enlarged so that names fit. Equal inputs give equal pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from ecocli.data.categories import Category
from ecocli.reports.overlays import enlarge

DRAWN_SCORE = 0.5
"""Detections of a higher score are drawn."""
_TEXT_PX = 13
_FRAME_PX = 2


@dataclass(frozen=True)
class DrawnBox:
    """One box.

    Attributes:
        box: Left, top, width, height, in pixels of the image.
        score: Its score; None for a true box.
    """

    box: tuple[float, ...]
    category: Category
    score: float | None = None


def draw_boxes(image: UInt8[np.ndarray, "H W 3"], boxes: Sequence[DrawnBox], scale: int = 1) -> Image.Image:
    """Draw boxes over their image, the best last, so that their names are readable.

    Args:
        scale: Whole factor of enlargement.
    """
    canvas = enlarge(image, scale)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_TEXT_PX)
    for one in sorted(boxes, key=lambda one: 1.0 if one.score is None else one.score):
        left, top, width, height = (scale * side for side in one.box)
        corners = [left, top, max(left + width, left + 1), max(top + height, top + 1)]
        draw.rectangle(corners, outline=one.category.color, width=_FRAME_PX)
        text = one.category.name if one.score is None else f"{one.category.name} {one.score:.2f}"
        x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
        x = min(max(left, 0), max(canvas.width - (x1 - x0) - 4, 0))
        y = top - (y1 - y0) - 4 if top >= y1 - y0 + 4 else top
        draw.rectangle((x, y, x + x1 - x0 + 4, y + y1 - y0 + 4), fill=(20, 20, 24))
        draw.text((x + 2 - x0, y + 2 - y0), text, font=font, fill=(255, 255, 255))
    return canvas
