"""Panoptic annotations: segments, image records and data sets in COCO's panoptic format."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: Value of its pixels in the id map; positive, unique within the image.
        category_id: Id of its category, as in the annotation file.
        is_crowd: True for a group of objects that are not told apart.
        area: Number of its pixels.
        bbox: Left, top, width, height, in pixels.
    """

    id: int
    category_id: int
    is_crowd: bool
    area: int
    bbox: tuple[int, int, int, int]
