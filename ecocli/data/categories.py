"""Category tables: the drawn shapes, COCO panoptic 2017, Cityscapes panoptic.

A table is a tuple in ascending id order; the contiguous class index of a category is its rank in the tuple.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Category:
    """One class of a panoptic data set.

    Attributes:
        id: The id used in annotation files.
        name: Human-readable name, unique within its table.
        supercategory: Coarser group the class belongs to.
        is_thing: True for countable objects, False for stuff.
        color: RGB, 0 to 255, for pictures.
    """

    id: int
    name: str
    supercategory: str
    is_thing: bool
    color: tuple[int, int, int]


SHAPES: tuple[Category, ...] = (
    Category(1, "disk", "figure", True, (230, 25, 75)),
    Category(2, "square", "figure", True, (245, 130, 48)),
    Category(3, "triangle", "figure", True, (255, 225, 25)),
    Category(4, "ring", "figure", True, (145, 30, 180)),
    Category(5, "star", "figure", True, (240, 50, 230)),
    Category(6, "worm", "figure", True, (170, 110, 40)),
    Category(7, "lit lamp", "lamp", True, (255, 250, 200)),
    Category(8, "unlit lamp", "lamp", True, (110, 110, 130)),
    Category(9, "sky", "ground", False, (70, 170, 240)),
    Category(10, "wall", "ground", False, (170, 85, 75)),
    Category(11, "water", "ground", False, (20, 80, 180)),
    Category(12, "sand", "ground", False, (215, 195, 130)),
    Category(13, "grass", "ground", False, (60, 160, 70)),
)
