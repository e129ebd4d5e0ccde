"""Pictures side by side with captions: one row per example, one column per thing compared."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_MARGIN_PX = 12
_TITLE_PX = 15
_NOTE_PX = 12
_CAPTION_PX = 40
_INK = (28, 30, 36)
_FAINT = (110, 114, 124)


@dataclass(frozen=True)
class Panel:
    """One picture with its caption.

    Attributes:
        picture: What is shown.
        title: First line below it.
        note: Second line, fainter.
    """

    picture: Image.Image
    title: str
    note: str = ""


def draw_sheet(rows: Sequence[Sequence[Panel]]) -> Image.Image:
    """Lay panels out in rows; panels of one row stand at one height.

    Args:
        rows: At least one row of at least one panel.
    """
    heights = [max(panel.picture.height for panel in row) + _CAPTION_PX for row in rows]
    width = max(sum(panel.picture.width + _MARGIN_PX for panel in row) for row in rows) + _MARGIN_PX
    sheet = Image.new("RGB", (width, sum(heights) + _MARGIN_PX * (len(rows) + 1)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    title_font, note_font = ImageFont.load_default(_TITLE_PX), ImageFont.load_default(_NOTE_PX)
    top = _MARGIN_PX
    for row, height in zip(rows, heights, strict=True):
        left = _MARGIN_PX
        for panel in row:
            sheet.paste(panel.picture, (left, top))
            below = top + height - _CAPTION_PX
            draw.text((left, below + 4), panel.title, font=title_font, fill=_INK)
            draw.text((left, below + 22), panel.note, font=note_font, fill=_FAINT)
            left += panel.picture.width + _MARGIN_PX
        top += height + _MARGIN_PX
    return sheet
