"""Sizes of the validation images of the built-in data sets, so that mean costs need no images.

Source: the published annotations of COCO val2017 (5,000 images, 603 sizes, in ``coco_val2017_sizes.csv``) and of
Cityscapes val (500 images of one size). The drawn ``shapes`` are squares.
"""

import csv
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from types import MappingProxyType

Size = tuple[int, int]
"""Height and width, in pixels."""


@lru_cache(maxsize=1)
def coco_sizes() -> Mapping[Size, int]:
    """Images of COCO val2017 by size."""
    text = resources.files(__package__).joinpath("coco_val2017_sizes.csv").read_text(encoding="ascii")
    rows = csv.DictReader(text.splitlines())
    return MappingProxyType({(int(row["height"]), int(row["width"])): int(row["images"]) for row in rows})


def cityscapes_sizes() -> Mapping[Size, int]:
    """Images of Cityscapes val by size."""
    return {(1024, 2048): 500}


def shapes_sizes(side: int, images: int) -> Mapping[Size, int]:
    """Drawn scenes by size."""
    return {(side, side): images}
